"""The sum that training minimises: a primary term over all targets, and auxiliary terms."""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn

from tlimb import registry
from tlimb.architectures.network import Network
from tlimb.architectures.size_check import kept_generator
from tlimb.data.augment.mixup import Mixed
from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.objectives.cox import Cox
from tlimb.objectives.multilabel import MultiLabel
from tlimb.objectives.ordinal import Ordinal
from tlimb.objectives.ramp import weight_at
from tlimb.objectives.soft_bins import SoftBins
from tlimb.objectives.term import Beginning, Step
from tlimb.seeds import seed_for


class Objective(nn.Module):
    r"""w_0 primary + sum_k w_k auxiliary_k; weights are numbers, or ramps over the training.

    The primary term of a target is the mean over its labelled scans of the loss that the sweep names, or of the usual
    one: the squared error of the standardised label, the cross-entropy, or what `SoftBins`, `Ordinal` and `MultiLabel`
    say; of `Cox` it is the mean over the events that were seen. A missing label (NaN) counts nowhere. Over several
    targets it is the mean of those of which a scan of the batch has a label, or what `combine` makes of them.

    A term whose weight is 0 in a step is not computed in it, so that it changes nothing.

    After MixUp a scan has two labels a and b and weighs lambda L(out, a) + (1 - lambda) L(out, b): the mean is

        sum_i [lambda_i k(a_i) L(out_i, a_i) + (1 - lambda_i) k(b_i) L(out_i, b_i)]
        / max(1, sum_i [lambda_i k(a_i) + (1 - lambda_i) k(b_i)]),    k = 1 where a label is known, else 0,

    and the mean over known labels where every lambda is 1. Zhang et al. (2018), "mixup: Beyond empirical risk
    minimization", ICLR.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        losses: dict[str, nn.Module],
        auxiliary: dict[str, "Weighted"],
        on_images: nn.Module | None = None,
        primary_weight: float | dict = 1.0,
        combine: nn.Module | None = None,
    ):
        super().__init__()
        self.targets = list(targets)
        self.losses = nn.ModuleList(losses[target.name] for target in targets if target.name in losses)
        self._on_images, self.combine, self.primary_weight = on_images, combine, primary_weight
        self.names = list(auxiliary)
        self.auxiliary = nn.ModuleList(item.term for item in auxiliary.values())
        self.weights = [item.weight for item in auxiliary.values()]

    @property
    def on_images(self) -> nn.Module | None:
        """The primary term where it looks at images and not at labels, such as Reconstruction; else None."""
        return self._on_images

    @property
    def terms(self) -> dict[str, nn.Module]:
        """Every term of the form of `tlimb.objectives.term.Term` by its name, the primary one first if it is such."""
        first = {} if self._on_images is None else {"primary": self._on_images}
        return first | dict(zip(self.names, self.auxiliary))

    def heads(self) -> dict[str, dict]:
        """Heads that the terms need beside those of the targets: name -> {"class_path", "init_args"}."""
        return {name: spec for term in self.terms.values() for name, spec in getattr(term, "heads", {}).items()}

    def columns(self) -> list[str]:
        """Label columns that the terms look at, each once."""
        asked = [getattr(term, "column", None) for term in self.terms.values()]
        return list(dict.fromkeys(name for name in asked if name is not None))

    def start(self, beginning: Beginning, seed: int) -> None:
        """Show every term, and `combine`, the network as training starts from it; what each draws follows from the seed
        and its name."""
        for name, term in (self.terms | ({"combine": self.combine} if self.combine is not None else {})).items():
            if hasattr(term, "start"):
                with kept_generator():
                    torch.manual_seed(seed_for(seed, "term", name))
                    term.start(beginning)

    def sees_unlabelled(self, progress: float) -> bool:
        """Whether the pass of a step takes unlabelled images, for a term that has a weight then."""
        weighted = {"primary": self.primary_weight} | dict(zip(self.names, self.weights))
        return any(
            getattr(term, "sees_unlabelled", False) and weight_at(weighted[name], progress) > 0
            for name, term in self.terms.items()
        )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Term name -> its value times its weight; training minimises the sum, "primary" stands first.

        What a term draws follows from torch's generator as it is set for the batch, and from the term's name.
        """
        values = {}
        weight = weight_at(self.primary_weight, step.progress)
        if weight > 0:
            values["primary"] = weight * (self._on_images(step) if self._on_images else self._of_targets(step))
        noise = torch.initial_seed()
        for name, term, planned in zip(self.names, self.auxiliary, self.weights):
            weight = weight_at(planned, step.progress)
            if weight > 0:
                torch.manual_seed(seed_for(noise, name))
                values[name] = weight * term(step)
        return values

    def after_step(self, network: Network) -> None:
        """Called after each step of the optimiser."""
        for term in self.terms.values():
            if hasattr(term, "after_step"):
                term.after_step(network)

    def _of_targets(self, step: Step) -> Tensor:
        """The primary term in training."""
        if self.combine is None:
            return self.primary(step.outputs, step.labels)
        return self.combine(self.each(step.outputs, step.labels), step)

    def primary(self, outputs: dict[str, Tensor], labels: list[Tensor] | Mixed) -> Tensor:
        """The primary term of outputs {target: (B, outputs)} and labels, one (B,) or (B, classes) a target with NaN
        where missing, as it is measured on the validation part too. Raises InputError where times until an event were
        mixed."""
        losses = self.each(outputs, labels)
        if self.combine is not None and hasattr(self.combine, "measured"):
            return self.combine.measured(losses)
        return sum(losses.values()) / max(len(losses), 1) if losses else outputs[self.targets[0].name].sum() * 0

    def each(self, outputs: dict[str, Tensor], labels: list[Tensor] | Mixed) -> dict[str, Tensor]:
        """Target -> the mean loss over its labelled scans, a scalar; without those of which no scan has a label."""
        found = {}
        for place, (target, loss) in enumerate(zip(self.targets, self.losses)):
            losses, weights = 0.0, 0.0
            for label, weight in _weighted(target, labels, place):
                known = torch.where(_uncounted(target, label), 0.0, weight)
                each = loss(*_as_torch_wants(target, outputs[target.name], label.nan_to_num(0.0)))
                each = each if each.ndim == 1 else each.mean(1)
                losses = losses + torch.where(known > 0, known * each, 0.0).sum()
                weights = weights + known.sum()
            if weights > 0:
                found[target.name] = losses / weights.clamp(min=1)
        return found


@dataclass(frozen=True)
class Weighted:
    """An auxiliary term with its weight: a number, or a ramp as a dict."""

    term: nn.Module
    weight: float | dict


def _weighted(target: Target, labels: list[Tensor] | Mixed, place: int) -> list[tuple[Tensor, Tensor | float]]:
    """The labels of one target, each with what it weighs: one for all, or the two of mixed images."""
    if isinstance(labels, Mixed):
        if target.kind == "survival":
            message = f"times until an event have no mixture, and '{target.name}' is one"
            raise InputError([Problem("augment MixUp", message)])
        return [(labels.labels[place], labels.weight), (labels.partner[place], 1 - labels.weight)]
    return [(labels[place], 1.0)]


def _uncounted(target: Target, label: Tensor) -> Tensor:
    """Which scans the mean does not count, (B,): without a label, or in survival without an event."""
    if target.kind == "survival":
        return ~(label > 0)
    return label.isnan() if label.ndim == 1 else label.isnan().any(1)


def build_objective(spec: dict, targets: Sequence[Target], trusted=()) -> Objective:
    """The objective of a stage, a `tlimb.config.Objective` as a dict; `primary` is null for the usual one by kind of
    target. Raises InputError for a term that does not exist.
    """
    on_images = _on_images(spec["primary"], trusted)
    losses = {} if on_images else {target.name: _primary(spec["primary"], target, trusted) for target in targets}
    auxiliary = {}
    for item in spec["auxiliary"]:
        term = registry.load("objective", item["class_path"], trusted)(**item["init_args"])
        name = item["class_path"].rpartition(".")[2].lower()
        same = sum(1 for other in auxiliary if other.split("_")[0] == name)
        weight = item.get("weight")
        weight = getattr(term, "default_weight", 1.0) if weight is None else weight
        auxiliary[f"{name}_{same + 1}" if same else name] = Weighted(term, weight)
    combine = None if spec["combine"] is None else _built("combination", spec["combine"], trusted)
    return Objective(targets, losses, auxiliary, on_images, spec["primary_weight"], combine)


def _built(kind: str, spec: dict, trusted, **links) -> nn.Module:
    """A module of a class, with those links that its constructor has arguments for."""
    made = registry.load(kind, spec["class_path"], trusted)
    wanted = signature(made).parameters
    return made(**spec["init_args"], **{name: value for name, value in links.items() if name in wanted})


def _on_images(spec: dict | None, trusted) -> nn.Module | None:
    """A primary term of tlimb's own form (network, batch, outputs), which says so by `on_images`."""
    if spec is None or "class_path" not in spec:
        return None
    term = registry.load("objective", spec["class_path"], trusted)
    return term(**spec["init_args"]) if getattr(term, "on_images", False) else None


def _primary(spec: dict | None, target: Target, trusted) -> nn.Module:
    if spec is not None and "class_path" not in spec:
        spec = spec.get(target.name)
    if spec is None:
        return _usual(target)
    if target.bins:
        message = f"the head of '{target.name}' has bins, which are learned by a loss of their own"
        raise InputError([Problem("objective.primary", message, "leave out one of the two")])
    loss_class = registry.load("objective", spec["class_path"], trusted)
    if not loss_class.__module__.startswith("torch."):
        return _built("objective", spec, trusted, target=target)
    if "reduction" in spec["init_args"]:
        raise InputError(
            [Problem("objective.primary.init_args.reduction", "is always the mean over scans; leave it out")]
        )
    return loss_class(**spec["init_args"], reduction="none")


def _usual(target: Target) -> nn.Module:
    """The loss of a target where the sweep names none."""
    if target.kind == "regression":
        return SoftBins(target) if target.bins else nn.MSELoss(reduction="none")
    own = {"ordinal": Ordinal, "multilabel": MultiLabel, "survival": Cox}
    return own[target.kind]() if target.kind in own else nn.CrossEntropyLoss(reduction="none")


def _as_torch_wants(target: Target, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    if target.kind == "classification":
        return output, label.long()
    return (output[:, 0], label) if target.kind == "regression" and not target.bins else (output, label)
