"""Contrast that knows how near scans are to each other in a label, such as age."""

import torch
from torch import Tensor

from tlimb.errors import InputError, Problem
from tlimb.objectives.numbers import at_least
from tlimb.objectives.simclr import nt_xent
from tlimb.objectives.term import Beginning, Step, Term
from tlimb.objectives.views import two_views, views_of


class YAware(Term):
    r"""The y-aware InfoNCE loss, a mean over the 2B views of a batch of B scans:

        L = -1 / 2B sum_i sum_{k != i} w_ik / (sum_{j != i} w_ij) log [exp(s_ik / tau) / sum_{j != i} exp(s_ij / tau)],
        w_ik = exp(-(y_i - y_k)^2 / (2 sigma^2)),    s_ik = z_i . z_k / (|z_i| |z_k|),

    y the value of the label `column`, z what the head "projection" makes of a view, tau the `temperature`. Of a column
    of classes w is 1 within a class and 0 between classes. A scan without a value has its own other view alone for a
    partner, as every scan has in SimCLR, which this is for small sigma; in the sums below the line all views stand.
    Dufumier et al. (2021), "Contrastive learning with continuous proxy meta-data for 3D MRI classification", MICCAI,
    equation 3. The authors' code divides w_ik by the sum of row k, and gives twice the mean.

    It learns from all scans of a batch, labelled or not; on several devices from those of each by themselves. A batch
    of one scan is an error. Where validation batches come without the column, it is SimCLR's value there.

    column: of quantities or classes. sigma: at least 1e-6, in the unit of the column (there 5 years of age); of no
    effect on classes. temperature: at least 0.001. views: augmentations {"class_path", "init_args"} that make a view;
    null for the usual ones.
    """

    needs = ("column", "moving")
    on_images = True
    own_pass = True
    heads = {"projection": {"class_path": "ProjectionHead", "init_args": {}}}

    def __init__(self, column: str, sigma: float = 5.0, temperature: float = 0.1, views: list[dict] | None = None):
        super().__init__()
        at_least(sigma=(sigma, 1e-6), temperature=(temperature, 1e-3))
        self.column, self.sigma, self.temperature, self.views = column, sigma, temperature, views

    def start(self, beginning: Beginning) -> None:
        """Build the views, and take sigma to the scale of the column. Raises InputError for views that do not suit the
        images, and for a column that is neither a quantity nor of single classes."""
        self.view = views_of(self.views, beginning)
        found = next(of for of in beginning.columns if of.name == self.column)
        if found.kind not in ("regression", "classification", "ordinal"):
            message = f"expected a column of quantities or classes, and '{self.column}' is {found.kind}"
            raise InputError([Problem("objective: YAware.column", message)])
        self.width = self.sigma / found.sd if found.kind == "regression" else None

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar. Raises InputError for mixed images, which come without a label."""
        values = step.columns.get(self.column)
        if values is None and step.training:
            message = f"batches come without the column '{self.column}'"
            raise InputError([Problem("objective: YAware.column", message, "leave out MixUp, if it is there")])
        alike = None if values is None else likeness(values, self.width)
        return nt_xent(*two_views(step, self.view, "projection", together=True), self.temperature, alike)


def likeness(values: Tensor, width: float | None) -> Tensor:
    """w (B, B) of values (B,), NaN where missing, for a Gaussian of this standard deviation; of classes where None."""
    apart = values[:, None] - values[None]
    alike = (apart == 0).to(values) if width is None else torch.exp(-(apart**2) / (2 * width**2))
    itself = torch.eye(len(values), dtype=torch.bool, device=values.device)
    return alike.nan_to_num(0.0).masked_fill(itself, 1.0)
