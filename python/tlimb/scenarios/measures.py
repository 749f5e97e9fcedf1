"""What is measured on the validation part."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tlimb.data.targets import Target
from tlimb.evaluation.metrics import metric
from tlimb.objectives.objective import Objective
from tlimb.scenarios.progress import Monitor


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
