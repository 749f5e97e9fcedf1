"""Barlow Twins: the coordinates of two views' embeddings correlate each with itself and with no other."""

from torch import Tensor

from tlimb.objectives.numbers import at_least
from tlimb.objectives.term import Beginning, Step, Term
from tlimb.objectives.views import two_views, views_of


class BarlowTwins(Term):
    r"""sum_j (1 - C_jj)^2 + redundancy sum_{j != k} C_jk^2,    C_jk = 1 / n sum_i z_ij z'_ik,

    z and z' (n, d) what the head "projection" makes of two views of the n scans of a batch, each coordinate less its
    mean and divided by sqrt(var + 1e-5), var divided by n, over the batch in validation too. Zbontar et al. (2021),
    "Barlow Twins: Self-supervised learning via redundancy reduction", ICML, equations 1 and 2, with the 1e-5 of the
    authors' code.

    It learns from all scans of a batch, labelled or not; on several devices C is of the scans of each. A batch of one
    scan is an error; of two scans every correlation is 1 or -1, so take 16 or more.

    redundancy: at least 0, the paper's lambda. views: augmentations {"class_path", "init_args"} that make a view; null
    for the usual ones.
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

    def __init__(self, redundancy: float = 5e-3, views: list[dict] | None = None):
        super().__init__()
        at_least(redundancy=(redundancy, 0))
        self.redundancy, self.views = redundancy, views

    def start(self, beginning: Beginning) -> None:
        """Build the views. Raises InputError for those that do not suit the images."""
        self.view = views_of(self.views, beginning)

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar."""
        first, second = (standardised(z) for z in two_views(step, self.view, "projection"))
        correlation = first.T @ second / len(first)
        own = correlation.diagonal()
        others = correlation.square().sum() - own.square().sum()
        return (1 - own).square().sum() + self.redundancy * others


def standardised(embedded: Tensor) -> Tensor:
    """Each coordinate of (n, d) with mean 0 and variance 1 over the batch."""
    centred = embedded - embedded.mean(0)
    return centred / (centred.square().mean(0) + 1e-5).sqrt()
