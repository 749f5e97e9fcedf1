"""Deep CORAL: features of both domains with the same covariance."""

from torch import Tensor

from tlimb.objectives.distances import full_precision
from tlimb.objectives.domains import nothing, of_one_domain
from tlimb.objectives.term import Step, Term


class DeepCORAL(Term):
    r"""1/(4 d^2) ||C_S - C_T||_F^2,  C = 1/(n - 1) (X^T X - 1/n (1^T X)^T (1^T X)).

    X (n, d) are the encoder's features of one domain and C their covariance; the squared norm is the sum over all d^2
    entries. Sun, Saenko (2016), "Deep CORAL: correlation alignment for deep domain adaptation", ECCV workshops,
    equations 1 to 3. The authors compare the outputs of the last layer; here it is what that layer is given.

    Means may differ: it does not look at them. It is small where d is large, so weights far above 1 are usual; the
    authors choose it such that in the end it costs about as much as the classification. A batch with fewer than two
    scans of a domain is worth 0.
    """

    needs = ("unlabelled", "moving")
    sees_unlabelled = True
    on_features = True

    def __init__(self):
        super().__init__()

    def forward(self, step: Step) -> Tensor:
        """The distance, a scalar."""
        if of_one_domain(step, least=2):
            return nothing(step)
        features, n = step.passed.features.float(), step.labelled
        with full_precision(features):
            apart = covariance(features[:n]) - covariance(features[n:])
        return apart.square().sum() / (4 * features.shape[1] ** 2)


def covariance(features: Tensor) -> Tensor:
    """Of rows (n, d), divided by n - 1: (d, d)."""
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)
