"""The sum that training minimises: a primary term over all targets, and auxiliary terms."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from tlimb import registry
from tlimb.architectures.network import Network
from tlimb.data.augment.mixup import Mixed
from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.objectives.cox import Cox
from tlimb.objectives.multilabel import MultiLabel
from tlimb.objectives.ordinal import Ordinal
from tlimb.objectives.soft_bins import SoftBins


class Term(Protocol):
    """An auxiliary term: a torch module, so that what it keeps moves to the device with the rest.

    A batch is (images, labels), a (B,) tensor of labels a target ((B, classes) for multilabel), or `Mixed` labels after
    MixUp.
    """

    def start(self, network: Network, pretrained: bool) -> None:
        """Called once, before training, with the network as it starts; `pretrained` says whether its encoder is."""

    def __call__(
        self, network: Network, batch: tuple[Tensor, list[Tensor] | Mixed], outputs: dict[str, Tensor]
    ) -> Tensor:
        """The term's value, a scalar with its weight in it."""


class Objective(nn.Module):
    r"""primary + sum of auxiliary terms.

    The primary term of a target is the mean over its labelled scans of the squared error of the standardised label, of
    the cross-entropy, or of what `SoftBins`, `Ordinal` and `MultiLabel` say; of `Cox` it is the mean over the events
    that were seen. Over several targets it is their mean, whatever their number. A missing label (NaN) counts nowhere.

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
        auxiliary: dict[str, nn.Module],
        on_images: nn.Module | None = None,
    ):
        super().__init__()
        self.targets = list(targets)
        self.losses = nn.ModuleList(losses[target.name] for target in targets if target.name in losses)
        self._on_images = on_images
        self.names = list(auxiliary)
        self.auxiliary = nn.ModuleList(auxiliary.values())

    @property
    def on_images(self) -> nn.Module | None:
        """The primary term where it looks at images and not at labels, such as Reconstruction; else None."""
        return self._on_images

    def heads(self) -> dict[str, dict]:
        """Heads that the terms need beside those of the targets: name -> {"class_path", "init_args"}."""
        terms = [self._on_images, *self.auxiliary]
        return {name: spec for term in terms for name, spec in getattr(term, "heads", {}).items()}

    def start(self, network: Network, pretrained: bool) -> None:
        """Show every auxiliary term the network as training starts from it."""
        for term in self.auxiliary:
            term.start(network, pretrained)

    def forward(
        self, network: Network, batch: tuple[Tensor, list[Tensor] | Mixed], outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Term name -> its value; training minimises the sum, "primary" stands first."""
        primary = self._on_images
        values = {"primary": primary(network, batch, outputs) if primary else self.primary(outputs, batch[1])}
        return values | {name: term(network, batch, outputs) for name, term in zip(self.names, self.auxiliary)}

    def primary(self, outputs: dict[str, Tensor], labels: list[Tensor] | Mixed) -> Tensor:
        """The primary term of outputs {target: (B, outputs)} and labels, one (B,) or (B, classes) a target with NaN
        where missing. Raises InputError where times until an event were mixed."""
        total, present = 0.0, 0.0
        for place, (target, loss) in enumerate(zip(self.targets, self.losses)):
            losses, weights = 0.0, 0.0
            for label, weight in _weighted(target, labels, place):
                known = torch.where(_uncounted(target, label), 0.0, weight)
                each = loss(*_as_torch_wants(target, outputs[target.name], label.nan_to_num(0.0)))
                each = each if each.ndim == 1 else each.mean(1)
                losses = losses + torch.where(known > 0, known * each, 0.0).sum()
                weights = weights + known.sum()
            total = total + losses / weights.clamp(min=1)
            present = present + (weights > 0)
        return total / present.clamp(min=1)


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
    """The objective of a stage: `primary` null for the usual one by kind of target, or a loss class of torch.

    Raises InputError for a term that does not exist.
    """
    on_images = _on_images(spec["primary"], trusted)
    losses = {} if on_images else {target.name: _primary(spec["primary"], target, trusted) for target in targets}
    auxiliary = {}
    for item in spec["auxiliary"]:
        term = registry.load("objective", item["class_path"], trusted)(**item["init_args"])
        name = item["class_path"].rpartition(".")[2].lower()
        same = sum(1 for other in auxiliary if other.split("_")[0] == name)
        auxiliary[f"{name}_{same + 1}" if same else name] = term
    return Objective(targets, losses, auxiliary, on_images)


def _on_images(spec: dict | None, trusted) -> nn.Module | None:
    """A primary term of tlimb's own form (network, batch, outputs), which says so by `on_images`."""
    term = None if spec is None else registry.load("objective", spec["class_path"], trusted)
    return term(**spec["init_args"]) if getattr(term, "on_images", False) else None


def _primary(spec: dict | None, target: Target, trusted) -> nn.Module:
    if spec is None:
        return _usual(target)
    if target.bins:
        message = f"the head of '{target.name}' has bins, which are learned by a loss of their own"
        raise InputError([Problem("objective.primary", message, "leave out one of the two")])
    loss_class = registry.load("objective", spec["class_path"], trusted)
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
