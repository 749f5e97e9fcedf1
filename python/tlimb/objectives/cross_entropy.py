"""The cross-entropy of one class of several, with smoothed labels or weights of classes where they are asked for."""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.objectives.class_weights import weights_of_classes


class CrossEntropy(nn.Module):
    r"""-(1 - e) w_y log p_y - e / K sum_k w_k log p_k of each scan of class y of K; p = softmax(output).

    e is `label_smoothing`: Szegedy et al. (2016), "Rethinking the Inception architecture for computer vision", CVPR,
    section 7. w_k is the weight of class k: 1, `class_weights` as a list or by the names of classes, or "balanced",
    n / (K n_k) with n_k of n training scans. The mean over scans is sum_i loss_i / sum_i w_{y_i}, as torch's is.

    Raises InputError for a smoothing outside [0, 1) and for weights that do not fit the classes.
    """

    kinds = ("classification",)

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Literal["balanced"] | list[float] | dict | None = None,
        *,
        target: Target,
    ):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            message = f"expected a number of at least 0 and below 1, found {label_smoothing}"
            raise InputError([Problem("label_smoothing", message)])
        self.label_smoothing = float(label_smoothing)
        self.register_buffer("weights", weights_of_classes(class_weights, target), persistent=False)

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        """Outputs (B, K) and classes (B,) -> (B,)."""
        weights, smoothing = self.weights.to(output.dtype), self.label_smoothing
        return cross_entropy(output, label, weights, reduction="none", label_smoothing=smoothing)

    def counted(self, label: Tensor) -> Tensor:
        """What each scan counts in the mean, (B,): the weight of its class."""
        return self.weights[label]
