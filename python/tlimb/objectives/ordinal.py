"""Ordered classes, one threshold after the other.

Shi, Cao, Raschka (2023), "Deep neural networks for rank-consistent ordinal regression based on conditional
probabilities" (CORN), Pattern Analysis and Applications 26, 941-955. McCullagh (1980), "Regression models for ordinal
data", JRSS B 42, 109-142, names the same likelihood the continuation ratio's.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class Ordinal(nn.Module):
    r"""-log P(y) = -sum_{j < y} log s(o_j) - [y < K - 1] log(1 - s(o_y)) of each scan, s the sigmoid.

    Of K classes 0 .. K - 1 in their order, output o_j says how probable it is that a scan which has reached class j
    goes beyond it: s(o_j) = P(y > j | y >= j). So P(y > j) = prod_{i <= j} s(o_i) never rises with j, whatever the
    head, and the probabilities of all classes sum to 1. The mean over scans is the paper's sum over its K - 1
    conditional sets divided by the number of scans, where the paper divides by the sum of the sizes of these sets.

    The prediction is the number of classes j with P(y > j) > 1/2: the median.
    """

    kinds = ("ordinal",)

    def __init__(self):
        super().__init__()

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        """Outputs (B, K - 1) and classes (B,) -> (B,)."""
        place = torch.arange(output.shape[1], device=output.device)
        passed, stopped = label[:, None] > place, label[:, None] == place
        return (softplus(-output) * passed + softplus(output) * stopped).sum(1)
