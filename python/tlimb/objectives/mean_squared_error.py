"""The squared error of a quantity."""

from torch import Tensor, nn
from torch.nn.functional import mse_loss


class MeanSquaredError(nn.Module):
    """(o - y)^2 of each scan, y the standardised label."""

    kinds = ("regression",)

    def __init__(self):
        super().__init__()

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        """Outputs (B,) and standardised labels (B,) -> (B,)."""
        return mse_loss(output, label, reduction="none")
