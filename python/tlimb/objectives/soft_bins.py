"""Soft bins: a quantity learned as a distribution over bins.

Peng, Gong, Beckmann, Vedaldi, Smith (2021), "Accurate brain age prediction with lightweight deep neural networks",
Medical Image Analysis 68, 101871.
"""

import torch
from torch import Tensor, nn

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem


class SoftBins(nn.Module):
    r"""KL(q || p) = sum_b q_b (log q_b - log p_b) of each scan, p = softmax(output), over the target's bins b.

    q_b = Phi((r_b - y) / sigma) - Phi((l_b - y) / sigma) is the mass of a normal distribution about the label y between
    the ends l_b and r_b of a bin, Phi the standard normal's distribution function. As in the authors' code 1e-16 is
    added to q, and what a label near the first or last bin has beyond them is lost, not shared among the bins.

    The prediction is the expected centre of a bin, sum_b p_b (l_b + r_b) / 2.

    Raises InputError for a target without bins.
    """

    kinds = ("regression",)

    def __init__(self, target: Target):
        super().__init__()
        if target.bins is None:
            hint = f'"heads": {{"{target.name}": {{"bins": {{"width": 1, "sigma": 1}}}}}} gives it some'
            raise InputError([Problem("SoftBins", f"the head of '{target.name}' has no bins", hint)])
        edges = (torch.from_numpy(target.bins.edges) - target.mean) / target.sd
        self.register_buffer("edges", edges, persistent=False)
        self.sigma = target.bins.sigma / target.sd

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        """Outputs (B, bins) and standardised labels (B,) -> (B,)."""
        below = torch.special.ndtr((self.edges - label[:, None]) / self.sigma)
        mass = (below.diff(dim=1) + 1e-16).to(output.dtype)
        return (mass * (mass.log() - output.log_softmax(1))).sum(1)
