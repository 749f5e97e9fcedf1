"""VICReg: views of a scan alike, the coordinates of an embedding spread out and uncorrelated."""

from torch import Tensor
from torch.nn.functional import relu

from tlimb.objectives.numbers import at_least
from tlimb.objectives.term import Beginning, Step, Term
from tlimb.objectives.views import two_views, views_of


class VICReg(Term):
    r"""invariance s(Z, Z') + variance (v(Z) + v(Z')) / 2 + covariance (c(Z) + c(Z')),

        s(Z, Z') = 1 / (n d) sum_i |z_i - z'_i|^2,
        v(Z) = 1 / d sum_j max(0, 1 - sqrt(var(z_j) + 1e-4)),
        c(Z) = 1 / d sum_{j != k} cov(Z)_jk^2,

    Z and Z' (n, d) what the head "projection" makes of two views of the n scans of a batch, var and cov divided by
    n - 1. Bardes, Ponce, LeCun (2022), "VICReg: Variance-invariance-covariance regularization for self-supervised
    learning", ICLR. Its weights 25, 25, 1 belong to s and v scaled as in the authors' code, which stands here; the text
    has s without 1 / d and v(Z) + v(Z').

    The projection must not be normalised at its end, where v would be of no use.

    It learns from all scans of a batch, labelled or not; on several devices var and cov are of the scans of each. A
    batch of one scan is an error; of two scans all coordinates correlate, so take 16 or more.

    invariance, variance, covariance: at least 0. views: augmentations {"class_path", "init_args"} that make a view;
    null for the usual ones.
    """

    needs = ("moving",)
    on_images = True
    own_pass = True
    heads = {
        "projection": {
            "class_path": "ProjectionHead",
            "init_args": {"layers": 3, "hidden": 2048, "width": 2048, "batch_norm": "hidden"},
        }
    }

    def __init__(
        self,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        views: list[dict] | None = None,
    ):
        super().__init__()
        at_least(invariance=(invariance, 0), variance=(variance, 0), covariance=(covariance, 0))
        self.invariance, self.variance, self.covariance, self.views = invariance, variance, covariance, views

    def start(self, beginning: Beginning) -> None:
        """Build the views. Raises InputError for those that do not suit the images."""
        self.view = views_of(self.views, beginning)

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar."""
        first, second = two_views(step, self.view, "projection")
        alike = (first - second).square().mean()
        spread = (too_narrow(first) + too_narrow(second)) / 2
        correlated = off_diagonal(first) + off_diagonal(second)
        return self.invariance * alike + self.variance * spread + self.covariance * correlated


def too_narrow(embedded: Tensor) -> Tensor:
    """v(Z): how far the standard deviations of the coordinates of Z (n, d) are below 1, on average."""
    return relu(1 - (embedded.var(0) + 1e-4).sqrt()).mean()


def off_diagonal(embedded: Tensor) -> Tensor:
    """c(Z): the sum of squared covariances between the coordinates of Z (n, d), divided by d."""
    centred = embedded - embedded.mean(0)
    covariance = centred.T @ centred / (len(embedded) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / embedded.shape[1]
