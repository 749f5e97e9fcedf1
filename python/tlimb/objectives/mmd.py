"""MMD: features of both domains with the same distribution, as several Gaussian kernels see it."""

import torch
from torch import Tensor

from tlimb.objectives.distances import full_precision, squared_distances
from tlimb.objectives.domains import nothing, of_one_domain
from tlimb.objectives.reversal import require_at_least
from tlimb.objectives.term import Step, Term


class MMD(Term):
    r"""1/(n_s (n_s - 1)) sum_{i != i'} k(s_i, s_i') + 1/(n_t (n_t - 1)) sum_{j != j'} k(t_j, t_j')
    - 2/(n_s n_t) sum_{i, j} k(s_i, t_j).

    s and t are the encoder's features of the source and the target, k(x, y) = 1/m sum_u exp(-||x - y||^2 / (b_u b)), b
    the mean of ||x - y||^2 over all pairs of different scans of the batch, without gradient, and b_u = 2^(u - (m+1)/2)
    for u from 1 to m: 1/4, 1/2, 1, 2, 4 with five kernels. This is the unbiased estimator of the squared distance of
    the two distributions: 0 on average where they are equal, and then negative as often as not.

    Gretton et al. (2012), "A kernel two-sample test", JMLR 13, equation 3; Long et al. (2015), "Learning transferable
    features with deep adaptation networks" (DAN), ICML. DAN learns what each kernel weighs, sums over several layers
    and estimates in linear time; here kernels weigh the same, as in the authors' later code, on the features alone.

    kernels: m, at least 1. A batch with fewer than two scans of a domain is worth 0. Raises InputError for m below 1.
    """

    needs = ("unlabelled", "moving")
    sees_unlabelled = True
    on_features = True

    def __init__(self, kernels: int = 5):
        super().__init__()
        require_at_least(kernels=(kernels, 1))
        self.kernels = kernels

    def forward(self, step: Step) -> Tensor:
        """The estimate, a scalar."""
        if of_one_domain(step, least=2):
            return nothing(step)
        features, n = step.passed.features.float(), step.labelled
        with full_precision(features):
            values = gaussian_kernels(squared_distances(features), self.kernels)
        return off_diagonal_mean(values[:n, :n]) + off_diagonal_mean(values[n:, n:]) - 2 * values[:n, n:].mean()


def gaussian_kernels(squared: Tensor, count: int) -> Tensor:
    """Mean of `count` Gaussian kernels of squared distances (n, n) whose widths are multiples of their mean."""
    mean = off_diagonal_mean(squared).detach()
    width = torch.where(mean > 0, mean, 1.0)
    factors = [2.0 ** (u - (count - 1) / 2) for u in range(count)]
    return sum((-squared / (factor * width)).exp() for factor in factors) / count


def off_diagonal_mean(square: Tensor) -> Tensor:
    """Mean of a square matrix (n, n), n > 1, without its diagonal."""
    n = len(square)
    return (square.sum() - square.diagonal().sum()) / (n * (n - 1))
