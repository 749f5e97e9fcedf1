"""One training from its start to its end, in the way that it needs."""

import torch

from tlimb.scenarios.apart import fit_apart
from tlimb.scenarios.direct import measure
from tlimb.scenarios.fitted import fit_at_once, is_fitted
from tlimb.scenarios.progress import Progress
from tlimb.scenarios.scenario import Training, fit
from tlimb.state import Kept


def train(training: Training, kept: Kept, device: torch.device) -> Progress:
    """Train, fit or, for direct transfer, only measure; the network is left with the weights to keep, on the CPU.

    Raises TrainingFailed where there is no model in the end.
    """
    if training.stage["strategy"] == "direct":
        return measure(training, device)
    if is_fitted(training.network.encoder):
        return fit_at_once(training, device)
    if training.stage["trainer"]["devices"] > 1:
        return fit_apart(training, kept, device)
    return fit(training, kept, device)
