"""What of a network trains, from which epoch on, and how fast."""

from collections.abc import Sequence

from torch import Tensor, nn

from tlimb.architectures.adapters import attach, build_adapter, merge
from tlimb.architectures.freezing import Slot, fixed_modules, is_bias, is_norm, place_of, slots_of, unknown
from tlimb.architectures.network import Network
from tlimb.architectures.stochnorm import StochNorm, make_ordinary, make_stochastic, stochastic_places
from tlimb.errors import InputError, Problem


class Tuner:
    """The ways to tune that a stage names by `strategy` and `tuning`, applied to its network.

    Made before weights are loaded, `start`ed once they are. All that trains in an epoch follows from its number. Raises
    InputError, where it is made, for names that the encoder does not have.

    Heads always train, and the encoder from some place in the order of its blocks on, a place that moves towards its
    beginning only. What does not train has no gradient and stays in evaluation mode.
    """

    def __init__(self, network: Network, stage: dict, seed: int, trusted=()):
        self.network, self.stage, self.seed = network, stage, seed
        self.tuning, self.encoder = stage["tuning"], network.encoder
        self.adapter = build_adapter(self.tuning["adapter"], trusted) if self.tuning["adapter"] else None
        self._constant = {id(of) for of in network.parameters() if not of.requires_grad}
        self.slots, self.blocks = self._slots(), max(len(self.encoder.blocks), 1)
        self._check()
        anew = self.tuning["reinitialise"]
        self._anew = _tensors(self.slots, self.blocks - anew) if anew else {}
        self._adapted: list[tuple[nn.Module, str]] = []
        self._ordinary: dict[str, nn.Module] = {}
        self._total, self._trainable = sum(parameter.numel() for parameter in network.parameters()), 0

    @property
    def features_stand_still(self) -> bool:
        """Whether the encoder never changes, so that its features can be computed once."""
        return self.stage["strategy"] == "frozen"

    def start(self) -> None:
        """Make the network ready for its first epoch, once its weights are loaded."""
        own = self.encoder.state_dict()
        for name, tensor in self._anew.items():
            own[name].copy_(tensor)
        if self.tuning["stochnorm"] is not None:
            self._ordinary = make_stochastic(self.encoder, self.tuning["stochnorm"], self._known_norms())
        if self.adapter is not None:
            self._adapted = attach(self.adapter, self.encoder, self.seed)
            if not self._adapted:
                raise InputError([Problem(self._where("adapter"), "the encoder has no weight that it could adapt")])
        self.slots = self._slots()
        self._check_selection()
        self._trainable = sum(parameter.numel() for parameter in self.learned())
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        """Fix what does not train in an epoch, counted from 1, and let the rest train."""
        begin = self._begin(epoch)
        trained = self._trained(begin)
        chosen = {id(slot.parameter) for slot in trained}
        for slot in self.slots:
            if slot.parameter is not None:
                slot.parameter.requires_grad_(id(slot.parameter) in chosen)
        self._fixed = fixed_modules(self.slots, trained, begin)
        self.set_mode()

    def set_mode(self) -> None:
        """Training mode for the network, evaluation mode for what is fixed in it."""
        self.network.train()
        for module in self._fixed:
            module.training = False

    def learned(self) -> list[nn.Parameter]:
        """Every parameter that trains in any epoch, in the order of the network."""
        if self.stage["strategy"] == "direct":
            return []
        trained = {id(slot.parameter) for slot in self._trained(self._begin(self.stage["epochs"]))}
        own = {id(slot.parameter) for slot in self.slots}
        others = own | self._constant
        return [of for of in self.network.parameters() if id(of) in trained or id(of) not in others]

    def groups(self) -> list[dict]:
        """Groups of parameters for an optimiser, each with the `scale` of its learning rate: heads first, then blocks
        from the last to the first, or one group for all where `layer_decay` is not set.

        Of L blocks, block l (from 1) learns at decay^(L + 1 - l) times the rate of the heads.
        """
        learned, decay = self.learned(), self.tuning["layer_decay"]
        if decay is None:
            return [{"params": learned, "scale": 1.0}]
        block = {id(slot.parameter): slot.block for slot in self.slots}
        last = self.blocks
        groups = [
            {"params": [of for of in learned if block.get(id(of), last) == number], "scale": decay ** (last - number)}
            for number in reversed(range(last + 1))
        ]
        return [group for group in groups if group["params"]]

    def finish(self) -> None:
        """Leave an ordinary network: adapters are merged into the weights beside which they stand, and batch norms are
        what they were."""
        merge(self._adapted)
        make_ordinary(self.encoder, self._ordinary)
        self._adapted, self._ordinary = [], {}

    def counts(self) -> dict[str, int]:
        """{"total": parameters of the ordinary network, "trainable": parameters that train in any epoch, those of
        adapters among them}."""
        return {"total": self._total, "trainable": self._trainable}

    def _slots(self) -> list[Slot]:
        """The encoder's slots, but for parameters that its class means never to train, such as fixed encodings."""
        return [slot for slot in slots_of(self.encoder) if id(slot.parameter) not in self._constant]

    def _begin(self, epoch: int) -> int:
        """The place in `slots` from which on the encoder may train."""
        tuning, closed = self.tuning, len(self.slots)
        if self.stage["strategy"] in ("frozen", "direct") or epoch <= tuning["head_first"]:
            return closed
        until, unfreeze = tuning["freeze_up_to"], tuning["unfreeze"]
        begin = 0 if until is None else place_of(until, self.slots)
        if isinstance(unfreeze, int):
            first = self.blocks - min((epoch - 1) // unfreeze, self.blocks)
            reached = next((place for place, slot in enumerate(self.slots) if slot.block >= first), closed)
            return max(begin, reached)
        if unfreeze is not None:
            return min([closed, *(place_of(of["block"], self.slots) for of in unfreeze if of["epoch"] <= epoch)])
        return begin

    def _trained(self, begin: int) -> list[Slot]:
        """The parameters of the encoder that train where it may from a place on."""
        only, adapter = self.tuning["only"], self.adapter
        slots = [slot for slot in self.slots[begin:] if slot.parameter is not None]
        if adapter is not None:
            return [slot for slot in slots if slot.beside or (adapter.norms and is_norm(slot))]
        if only is not None:
            return [slot for slot in slots if (is_bias if only == "bias" else is_norm)(slot)]
        return slots

    def _known_norms(self) -> list[str]:
        """The batch norms whose running statistics come with the weights: not those of blocks that start anew."""
        fresh = self.blocks - self.tuning["reinitialise"]
        anew = {slot.name for slot in self.slots if slot.block >= fresh}
        return [name for name in stochastic_places(self.encoder) if name not in anew]

    def _where(self, key: str) -> str:
        return f"stages.{self.stage['name']}.tuning.{key}"

    def _check(self) -> None:
        """Names that the encoder has, and as many blocks as are named."""
        tuning = self.tuning
        named = [("freeze_up_to", tuning["freeze_up_to"])] if tuning["freeze_up_to"] is not None else []
        if isinstance(tuning["unfreeze"], list):
            named += [(f"unfreeze[{place}].block", of["block"]) for place, of in enumerate(tuning["unfreeze"])]
        layers = (self.adapter and self.adapter.layers) or []
        named += [(f"adapter.init_args.layers[{place}]", name) for place, name in enumerate(layers)]
        known = {slot.name for slot in self.slots} - {""}
        problems = [unknown(name, self.encoder, self._where(key)) for key, name in named if name not in known]
        if tuning["reinitialise"] >= self.blocks:
            message = f"the encoder has {self.blocks} blocks; found {tuning['reinitialise']}, expected fewer"
            problems.append(Problem(self._where("reinitialise"), message, 'strategy "scratch" starts all of them anew'))
        if tuning["stochnorm"] is not None and not self._known_norms():
            message = "the encoder has no batch norm with statistics from before"
            problems.append(Problem(self._where("stochnorm"), message, "leave it out"))
        if not problems and isinstance(tuning["unfreeze"], list):
            problems = self._backward_problems(tuning["unfreeze"])
        if problems:
            raise InputError(problems)

    def _backward_problems(self, unfreeze: Sequence[dict]) -> list[Problem]:
        """Of blocks that train from later epochs on and stand behind what trains already."""
        problems = []
        places = [place_of(of["block"], self.slots) for of in unfreeze]
        for number in range(1, len(places)):
            if places[number] >= places[number - 1]:
                message = f"{unfreeze[number]['block']} trains already with {unfreeze[number - 1]['block']}"
                problems.append(Problem(self._where(f"unfreeze[{number}].block"), message, "expected an earlier block"))
        return problems

    def _check_selection(self) -> None:
        """That something of the encoder is left to train, and all of the blocks that start anew."""
        only, begin = self.tuning["only"], self._begin(self.stage["epochs"])
        if only is not None and not self._trained(begin):
            kind = {"bias": "bias", "norm": "normalisation with a scale or shift"}[only]
            raise InputError([Problem(self._where("only"), f"what may train of the encoder has no {kind}")])
        if self._ordinary:
            self.set_epoch(self.stage["epochs"])
            if not any(isinstance(of, StochNorm) and of.training for of in self.encoder.modules()):
                message = "no batch norm whose statistics come with the weights ever trains"
                raise InputError([Problem(self._where("stochnorm"), message, "leave it out")])
        fresh = self.blocks - self.tuning["reinitialise"]
        if any(slot.block >= fresh for slot in self.slots[:begin]):
            message = f"block {self.encoder.blocks[fresh]} starts anew and not all of it trains"
            raise InputError([Problem(self._where("reinitialise"), message)])


def _tensors(slots: Sequence[Slot], block: int) -> dict[str, Tensor]:
    """Copies of the parameters and buffers of all blocks from number `block` on, by their names in the encoder."""
    found = {}
    for slot in slots:
        if slot.parameter is None and slot.block >= block:
            prefix = f"{slot.name}." if slot.name else ""
            own = [*slot.module.named_parameters(recurse=False), *slot.module.named_buffers(recurse=False)]
            found |= {prefix + name: tensor.detach().clone() for name, tensor in own}
    return found
