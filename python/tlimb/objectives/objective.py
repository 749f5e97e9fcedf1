"""The sum that training minimises: a primary term over all targets, and auxiliary terms."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from tlimb import registry
from tlimb.architectures.network import Network
from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem


class Term(Protocol):
    """An auxiliary term: a torch module, so that what it keeps moves to the device with the rest."""

    def start(self, network: Network, pretrained: bool) -> None:
        """Called once, before training, with the network as it starts; `pretrained` says whether its encoder is."""

    def __call__(self, network: Network, batch: tuple[Tensor, list[Tensor]], outputs: dict[str, Tensor]) -> Tensor:
        """The term's value, a scalar with its weight in it."""


class Objective(nn.Module):
    """primary + sum of auxiliary terms.

    The primary term of a target is the mean over its labelled scans of the squared error of the standardised label, or
    of the cross-entropy; over several targets it is their mean, whatever their number. A missing label (NaN) counts
    nowhere.
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
        self, network: Network, batch: tuple[Tensor, list[Tensor]], outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Term name -> its value; training minimises the sum, "primary" stands first."""
        values = {"primary": self.primary(outputs, batch[1])}
        return values | {name: term(network, batch, outputs) for name, term in zip(self.names, self.auxiliary)}

    def primary(self, outputs: dict[str, Tensor], labels: list[Tensor]) -> Tensor:
        """The primary term of outputs {target: (B, outputs)} and labels, one (B,) a target with NaN where missing."""
        total, present = 0.0, 0.0
        for target, loss, label in zip(self.targets, self.losses, labels):
            known = ~label.isnan()
            each = loss(*_as_torch_wants(target, outputs[target.name], label.nan_to_num(0.0)))
            total = total + torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)
            present = present + known.any()
        return total / present.clamp(min=1)


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
