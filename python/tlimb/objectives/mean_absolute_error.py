"""The absolute error of a quantity."""

from torch import Tensor, nn
from torch.nn.functional import l1_loss


class MeanAbsoluteError(nn.Module):
    """|o - y| of each scan, y the standardised label; the best constant prediction is the median of the labels."""

    kinds = ("regression",)

    def __init__(self):
        super().__init__()

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        """Outputs (B,) and standardised labels (B,) -> (B,)."""
        return l1_loss(output, label, reduction="none")
