"""Any number of classes at once."""

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class MultiLabel(nn.Module):
    r"""-1/K sum_k [y_k log s(o_k) + (1 - y_k) log(1 - s(o_k))] of each scan, over K classes, s the sigmoid.

    The binary cross-entropy of each class by itself, as in Nam et al. (2014), "Large-scale multi-label text
    classification: revisiting neural networks", ECML PKDD.
    """

    kinds = ("multilabel",)

    def __init__(self):
        super().__init__()

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        """Outputs (B, K) and labels (B, K) of 0 and 1 -> (B,)."""
        return binary_cross_entropy_with_logits(output, label, reduction="none").mean(1)
