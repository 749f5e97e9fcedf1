"""Losses of several targets, each weighted by how noisy its labels turn out to be.

Kendall, Gal, Cipolla (2018), "Multi-task learning using uncertainty to weigh losses for scene geometry and semantics",
CVPR.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tlimb.data.targets import Target
from tlimb.objectives.term import Step


class UncertaintyWeighting(nn.Module):
    r"""sum_t [c_t exp(-s_t) L_t + s_t / 2] over the targets t of which a scan of the batch has a label.

    s_t = log sigma_t^2 is learned, from 0 on, by the stage's optimiser; sigma_t is the standard deviation of the noise
    of a quantity, or the temperature of a softmax. c_t is 1/2 for quantities (the paper's equation 7, whose L is the
    squared error) and 1 for all others, bins among them (its equation 10). For a constant L_t > 0 the best s_t is
    log(2 c_t L_t). The validation loss is the plain mean of the L_t, so that epochs are compared by one measure.
    """

    needs = ("targets",)
    additive = True

    def __init__(self, *, targets: Sequence[Target]):
        super().__init__()
        self.place = {target.name: number for number, target in enumerate(targets)}
        self.factors = [0.5 if target.kind == "regression" and not target.bins else 1.0 for target in targets]
        self.log_variances = nn.Parameter(torch.zeros(len(targets)))

    def forward(self, losses: dict[str, Tensor], step: Step) -> Tensor:
        """Target -> mean loss of the batch, a scalar -> what is minimised, a scalar."""
        total = 0.0
        for name, loss in losses.items():
            place = self.place[name]
            log_variance = self.log_variances[place]
            total = total + self.factors[place] * (-log_variance).exp() * loss + log_variance / 2
        return total
