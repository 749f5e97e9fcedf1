"""What is measured in training and on the validation part."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tlimb.data.targets import Target
from tlimb.evaluation.metrics import metric
from tlimb.objectives.objective import Objective
from tlimb.scenarios.processes import gathered
from tlimb.scenarios.progress import Monitor


class Sums:
    """Sums over an epoch's scans of the terms and of the targets' losses, in whatever process they were computed."""

    def __init__(self):
        self._terms: dict[str, Tensor] = {}
        self._losses: dict[str, Tensor] = {}
        self._scans = 0

    def add(self, terms: dict[str, Tensor], scans: int, losses: dict[str, tuple[Tensor, Tensor]]) -> None:
        """A step's terms, which count as its scans do, and each target's mean loss with the number of its scans."""
        self._scans += scans
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value.detach() * scans
        for name, (loss, known) in losses.items():
            self._losses[name] = self._losses.get(name, 0.0) + torch.stack([loss * known, known.to(loss)])

    def means(self) -> dict[str, float]:
        """Term -> its mean over the scans of the epoch, 0 in steps without it; then <target>_loss -> its mean over
        those that have the label."""
        terms, losses, scans = zip(*gathered((self._terms, self._losses, self._scans)))
        means = {name: sum(float(of[name]) for of in terms if name in of) / sum(scans) for name in _names(terms)}
        for name in _names(losses):
            total, known = torch.stack([of[name].cpu() for of in losses if name in of]).sum(0).tolist()
            means[f"{name}_loss"] = total / known if known else float("nan")
        return means


def _names(of: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(name for each in of for name in each))


def validated(
    objective: Objective,
    targets: Sequence[Target],
    monitor: Monitor,
    outputs: Sequence[dict[str, Tensor]],
    labels: Sequence[Sequence[Tensor]],
    measured: Sequence[tuple[float, int]] = (),
) -> dict[str, float]:
    """validation_loss and the monitored metrics by their columns, on all of the validation part.

    outputs: raw outputs of the targets' heads, a dict a batch; labels: a list a batch, a tensor a target. measured:
    value and number of scans of each batch, where the objective looks at images.
    """
    together = {of.name: torch.cat([batch[of.name] for batch in outputs]) for of in targets}
    known = [torch.cat(batches) for batches in zip(*labels)]
    if objective.on_images is None:
        loss = float(objective.primary(together, known))
    else:
        loss = sum(value * count for value, count in measured) / sum(count for _, count in measured)
    decoded = {
        target.name: target.compare(label.double().cpu().numpy(), together[target.name].float().cpu().numpy())
        for target, label in zip(targets, known)
    }
    metrics = {column: metric(name, *decoded[target]) for column, (target, name) in monitor.metrics.items()}
    return {"validation_loss": loss} | metrics
