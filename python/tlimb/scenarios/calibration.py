"""How sure heads are of their classes, held against scans that they were not trained on.

Guo, Pleiss, Sun, Weinberger (2017), "On calibration of modern neural networks", ICML.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from tlimb.architectures.forward import run
from tlimb.architectures.network import Network
from tlimb.data.targets import Target
from tlimb.data.view import View
from tlimb.evaluation.calibration import best_temperature
from tlimb.labels import ONE_CLASS
from tlimb.objectives.agreement import log_probabilities


def temperatures(
    network: Network, targets: Sequence[Target], rows: pd.DataFrame, view: View, device: torch.device
) -> dict[str, float]:
    """Target of classes, ordered classes or bins -> the temperature of its head on the scans of `rows` (scan_id and
    labels)."""
    chosen = [of for of in targets if of.kind in ONE_CLASS or of.bins]
    if not chosen:
        return {}
    outputs = run(network, [of.name for of in chosen], view.dataset(rows, targets), view, device)
    labels = {of.name: torch.from_numpy(of.encode(rows[of.name])) for of in chosen}
    return {of.name: temperature(of, torch.from_numpy(outputs[of.name]), labels[of.name]) for of in chosen}


def temperature(target: Target, outputs: Tensor, label: Tensor) -> float:
    """T > 0 for which the mean of -log p_y of outputs / T is least, (n, outputs) and labels (n,), NaN where missing.

    Of bins y is the one in which the label lies. T is looked for from 0.05 to 20; it is 1 where no label is known.
    """
    known = ~label.isnan()
    if not known.any():
        return 1.0
    outputs, place = outputs[known], label[known]
    if target.bins:
        edges = torch.from_numpy((target.bins.edges - target.mean) / target.sd)
        place = (torch.bucketize(place.double(), edges, right=True) - 1).clamp(0, target.bins.count - 1)
    place = place.long()[:, None]

    def surprise(divisor: float) -> float:
        return float(-log_probabilities(target, outputs / divisor)[:, 0].gather(1, place).mean())

    return best_temperature(surprise)
