"""An error that is squared where it is small and absolute where it is large.

Huber (1964), "Robust estimation of a location parameter", Annals of Mathematical Statistics 35, 73-101.
"""

from math import inf

from torch import Tensor, nn
from torch.nn.functional import huber_loss

from tlimb.errors import InputError, Problem


class Huber(nn.Module):
    r"""e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2), of each scan; e = o - y, y the standardised label.

    delta: in standard deviations of the training labels. Raises InputError where it is not above 0.
    """

    kinds = ("regression",)

    def __init__(self, delta: float = 1.0):
        super().__init__()
        if not 0 < delta < inf:
            raise InputError([Problem("delta", f"expected a number above 0, found {delta}")])
        self.delta = float(delta)

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        """Outputs (B,) and standardised labels (B,) -> (B,)."""
        return huber_loss(output, label, reduction="none", delta=self.delta)
