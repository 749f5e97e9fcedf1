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


class Term(Protocol):
    """An auxiliary term: a torch module, so that what it keeps moves to the device with the rest.

    A batch is (images, labels), a (B,) tensor of labels a target, or `Mixed` labels after MixUp.
    """

    def start(self, network: Network, pretrained: bool) -> None:
        """Called once, before training, with the network as it starts; `pretrained` says whether its encoder is."""

    def __call__(
        self, network: Network, batch: tuple[Tensor, list[Tensor] | Mixed], outputs: dict[str, Tensor]
    ) -> Tensor:
        """The term's value, a scalar with its weight in it."""


class Objective(nn.Module):
    r"""primary + sum of auxiliary terms.

    The primary term of a target is the mean over its labelled scans of the squared error of the standardised label, or
    of the cross-entropy; over several targets it is their mean, whatever their number. A missing label (NaN) counts
    nowhere.

    After MixUp a scan has two labels a and b and weighs lambda L(out, a) + (1 - lambda) L(out, b): the mean is

        sum_i [lambda_i k(a_i) L(out_i, a_i) + (1 - lambda_i) k(b_i) L(out_i, b_i)]
        / max(1, sum_i [lambda_i k(a_i) + (1 - lambda_i) k(b_i)]),    k = 1 where a label is known, else 0,

    and the mean over known labels where every lambda is 1. Zhang et al. (2018), "mixup: Beyond empirical risk
    minimization", ICLR.
    """

    def __init__(self, targets: Sequence[Target], losses: dict[str, nn.Module], auxiliary: dict[str, nn.Module]):
        super().__init__()
        self.targets = list(targets)
        self.losses = nn.ModuleList(losses[target.name] for target in targets)
        self.names = list(auxiliary)
        self.auxiliary = nn.ModuleList(auxiliary.values())

    def start(self, network: Network, pretrained: bool) -> None:
        """Show every auxiliary term the network as training starts from it."""
        for term in self.auxiliary:
            term.start(network, pretrained)

    def forward(
        self, network: Network, batch: tuple[Tensor, list[Tensor] | Mixed], outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Term name -> its value; training minimises the sum, "primary" stands first."""
        values = {"primary": self.primary(outputs, batch[1])}
        return values | {name: term(network, batch, outputs) for name, term in zip(self.names, self.auxiliary)}

    def primary(self, outputs: dict[str, Tensor], labels: list[Tensor] | Mixed) -> Tensor:
        """The primary term of outputs {target: (B, outputs)} and labels, one (B,) a target with NaN where missing."""
        total, present = 0.0, 0.0
        for place, (target, loss) in enumerate(zip(self.targets, self.losses)):
            losses, weights = 0.0, 0.0
            for label, weight in _weighted(labels, place):
                known = torch.where(label.isnan(), 0.0, weight)
                each = loss(*_as_torch_wants(target, outputs[target.name], label.nan_to_num(0.0)))
                losses = losses + torch.where(known > 0, known * each, 0.0).sum()
                weights = weights + known.sum()
            total = total + losses / weights.clamp(min=1)
            present = present + (weights > 0)
        return total / present.clamp(min=1)


def _weighted(labels: list[Tensor] | Mixed, place: int) -> list[tuple[Tensor, Tensor | float]]:
    """The labels of one target, each with what it weighs: one for all, or the two of mixed images."""
    if isinstance(labels, Mixed):
        return [(labels.labels[place], labels.weight), (labels.partner[place], 1 - labels.weight)]
    return [(labels[place], 1.0)]


def build_objective(spec: dict, targets: Sequence[Target], trusted=()) -> Objective:
    """The objective of a stage: `primary` null for the usual one by kind of target, or a loss class of torch.

    Raises InputError for a term that does not exist.
    """
    losses = {target.name: _primary(spec["primary"], target, trusted) for target in targets}
    auxiliary = {}
    for item in spec["auxiliary"]:
        term = registry.load("objective", item["class_path"], trusted)(**item["init_args"])
        name = item["class_path"].rpartition(".")[2].lower()
        same = sum(1 for other in auxiliary if other.split("_")[0] == name)
        auxiliary[f"{name}_{same + 1}" if same else name] = term
    return Objective(targets, losses, auxiliary)


def _primary(spec: dict | None, target: Target, trusted) -> nn.Module:
    if spec is None:
        return nn.MSELoss(reduction="none") if target.kind == "regression" else nn.CrossEntropyLoss(reduction="none")
    loss_class = registry.load("objective", spec["class_path"], trusted)
    if "reduction" in spec["init_args"]:
        raise InputError(
            [Problem("objective.primary.init_args.reduction", "is always the mean over scans; leave it out")]
        )
    return loss_class(**spec["init_args"], reduction="none")


def _as_torch_wants(target: Target, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    return (output[:, 0], label) if target.kind == "regression" else (output, label.long())
