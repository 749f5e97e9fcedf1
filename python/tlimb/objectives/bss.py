"""Batch spectral shrinkage: give up what of the pretrained features does not transfer.

Chen, Wang, Fu, Long, Wang (2019), "Catastrophic forgetting meets negative transfer: batch spectral shrinkage for safe
transfer learning", NeurIPS.
"""

import torch
from torch import Tensor

from tlimb.objectives.numbers import at_least
from tlimb.objectives.term import Step, Term


class BSS(Term):
    r"""sum_{i=1}^k sigma_{-i}^2, sigma_{-i} the i-th smallest singular value of a batch's features (B, F).

    They are those of the labelled scans, not centred. A batch has min(B, F) singular values; where these are not more
    than k, all are in the sum. The authors weigh it by 0.001, which is its weight unless the sweep says another one.

    k: at least 1; the authors' code has 1. Raises InputError for others.
    """

    needs = ("pretrained", "moving")
    default_weight = 0.001

    def __init__(self, k: int = 1):
        super().__init__()
        at_least(k=(k, 1))
        self.k = k

    def forward(self, step: Step) -> Tensor:
        """The penalty, a scalar."""
        return torch.linalg.svdvals(step.features)[-self.k :].square().sum()
