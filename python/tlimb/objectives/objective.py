"""The sum that training minimises: a primary term over all targets, and auxiliary terms."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tlimb.architectures.network import Network
from tlimb.architectures.size_check import kept_generator
from tlimb.data.augment.mixup import Mixed
from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.objectives.ramp import weight_at
from tlimb.objectives.term import Beginning, Step
from tlimb.seeds import seed_for


class Objective(nn.Module):
    r"""w_0 primary + sum_k w_k auxiliary_k; weights are numbers, or ramps over the training.

    The primary term of a target is the mean over its labelled scans of the loss that the sweep names, or of the usual
    one of its kind; of `Cox` it is the mean over the events that were seen. A missing label (NaN) counts nowhere. Where
    classes have weights, c(y) is that of class y, and the mean is sum_i L(out_i, y_i) / sum_i c(y_i), in which L holds
    its weights already; else c is 1. Over several targets the primary term is the mean of those of which a scan of the
    batch has a label, or what `combine` makes of them.

    A term whose weight is 0 in a step is not computed in it, so that it changes nothing.

    After MixUp a scan has two labels a and b and weighs lambda L(out, a) + (1 - lambda) L(out, b): the mean is

        sum_i [lambda_i k(a_i) L(out_i, a_i) + (1 - lambda_i) k(b_i) L(out_i, b_i)] min(1, S) / C,
        S = sum_i [lambda_i k(a_i) + (1 - lambda_i) k(b_i)],    k = 1 where a label is known, else 0,
        C = sum_i [lambda_i k(a_i) c(a_i) + (1 - lambda_i) k(b_i) c(b_i)],

    and the mean over known labels where every lambda is 1. Zhang et al. (2018), "mixup: Beyond empirical risk
    minimization", ICLR.

    last: of a stage with several targets, target -> (mean loss, how many scans it is a mean over) in the last batch
    that was trained on, without those of which no scan has a label.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        losses: dict[str, nn.Module],
        auxiliary: dict[str, tuple[nn.Module, float | dict]],
        on_images: nn.Module | None = None,
        primary_weight: float | dict = 1.0,
        combine: nn.Module | None = None,
    ):
        """losses: target -> loss(output, label) -> (B,). auxiliary: name -> term and weight."""
        super().__init__()
        self.targets = list(targets)
        self.losses = nn.ModuleList(losses[target.name] for target in targets if target.name in losses)
        self._on_images, self.combine, self.primary_weight = on_images, combine, primary_weight
        self.names = list(auxiliary)
        self.auxiliary = nn.ModuleList(term for term, _ in auxiliary.values())
        self.weights = [weight for _, weight in auxiliary.values()]
        self.last: dict[str, tuple[Tensor, Tensor]] = {}

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
        values, noise = {}, torch.initial_seed()
        weight = weight_at(self.primary_weight, step.progress)
        if weight > 0:
            values["primary"] = weight * (self._on_images(step) if self._on_images else self._of_targets(step))
        for name, term, planned in zip(self.names, self.auxiliary, self.weights):
            weight = weight_at(planned, step.progress)
            if weight > 0:
                torch.manual_seed(seed_for(noise, name))
                values[name] = weight * term(step)
        return values or {"primary": _nothing(step.passed.outputs)}

    def after_step(self, network: Network) -> None:
        """Called after each step of the optimiser."""
        for term in self.terms.values():
            if hasattr(term, "after_step"):
                term.after_step(network)

    def _of_targets(self, step: Step) -> Tensor:
        """The primary term in training."""
        means = self._means(step.outputs, step.labels)
        several = len(self.targets) > 1
        self.last = {name: (mean.detach(), scans.detach()) for name, (mean, scans) in means.items()} if several else {}
        losses = {name: mean for name, (mean, _) in means.items()}
        if self.combine is None or not losses:
            return _mean(losses, step.outputs)
        torch.manual_seed(seed_for(torch.initial_seed(), "combine"))
        return self.combine(losses, step)

    def primary(self, outputs: dict[str, Tensor], labels: list[Tensor] | Mixed) -> Tensor:
        """The primary term of outputs {target: (B, outputs)} and labels, one (B,) or (B, classes) a target with NaN
        where missing, as it is measured on the validation part. Raises InputError where times until an event were
        mixed."""
        losses = self.each(outputs, labels)
        if losses and hasattr(self.combine, "measured"):
            return self.combine.measured(losses)
        return _mean(losses, outputs)

    def each(self, outputs: dict[str, Tensor], labels: list[Tensor] | Mixed) -> dict[str, Tensor]:
        """Target -> the mean loss over its labelled scans, a scalar; without those of which no scan has a label."""
        return {name: mean for name, (mean, _) in self._means(outputs, labels).items()}

    def _means(self, outputs, labels) -> dict[str, tuple[Tensor, Tensor]]:
        """Target -> the mean loss over its labelled scans, and how many these are."""
        found = {}
        for place, (target, loss) in enumerate(zip(self.targets, self.losses)):
            losses, counted, scans = 0.0, 0.0, 0.0
            for label, weight in _weighted(target, labels, place):
                known = torch.where(_uncounted(target, label), 0.0, weight)
                output, wanted = _as_losses_want(target, outputs[target.name], label.nan_to_num(0.0))
                each = loss(output, wanted)
                each = each if each.ndim == 1 else each.mean(1)
                losses = losses + torch.where(known > 0, known * each, 0.0).sum()
                counted = counted + (known * loss.counted(wanted) if hasattr(loss, "counted") else known).sum()
                scans = scans + known.sum()
            if counted > 0:
                found[target.name] = losses / counted * scans.clamp(max=1), scans
        return found


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


def _as_losses_want(target: Target, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs in 32 bits at least, those of a quantity as (B,); numbers of classes as whole ones."""
    output = output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
    if target.kind == "classification":
        return output, label.long()
    return (output[:, 0], label) if target.kind == "regression" and not target.bins else (output, label)


def _mean(losses: dict[str, Tensor], outputs: dict[str, Tensor]) -> Tensor:
    return sum(losses.values()) / len(losses) if losses else _nothing(outputs)


def _nothing(outputs: dict[str, Tensor]) -> Tensor:
    """0, with gradients of 0 for what the outputs come from."""
    return sum(output.sum() for output in outputs.values()) * 0
