"""SimCLR: two views of a scan are told from the views of all other scans."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tlimb.objectives.numbers import at_least
from tlimb.objectives.term import Beginning, Step, Term
from tlimb.objectives.views import two_views, views_of


class SimCLR(Term):
    r"""The NT-Xent loss, a mean over the 2B views of a batch of B scans:

        L = -1 / 2B sum_i log [exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau)],    s_ik = z_i . z_k / (|z_i| |z_k|),

    j the other view of the scan of i, z what the head "projection" makes of a view, tau the `temperature`. Both views
    pass the network in one batch. Chen, Kornblith, Norouzi, Hinton (2020), "A simple framework for contrastive learning
    of visual representations", ICML, equation 1. It grows with the batch, up to log(2B - 1) where all views are alike.

    It learns from all scans of a batch, labelled or not; on several devices from those of each by themselves: there a
    scan is told from fewer others. A batch of one scan is an error.

    temperature: at least 0.001. views: augmentations {"class_path", "init_args"} that make a view; null for the usual
    ones.
    """

    needs = ("moving",)
    on_images = True
    own_pass = True
    heads = {"projection": {"class_path": "ProjectionHead", "init_args": {}}}

    def __init__(self, temperature: float = 0.1, views: list[dict] | None = None):
        super().__init__()
        at_least(temperature=(temperature, 1e-3))
        self.temperature, self.views = temperature, views

    def start(self, beginning: Beginning) -> None:
        """Build the views. Raises InputError for those that do not suit the images."""
        self.view = views_of(self.views, beginning)

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar."""
        return nt_xent(*two_views(step, self.view, "projection", together=True), self.temperature)


def nt_xent(first: Tensor, second: Tensor, temperature: float, alike: Tensor | None = None) -> Tensor:
    """NT-Xent of two views (B, width). alike: (B, B), at least 0, what each scan is to pull on each other one; where
    None only on itself. The weights of a view's partners are divided by their sum."""
    views = normalize(torch.cat([first, second]), dim=1)
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    logits = (views @ views.T / temperature).masked_fill(itself, -torch.inf)
    alike = torch.eye(len(first), device=views.device) if alike is None else alike
    weights = alike.to(views).repeat(2, 2).masked_fill(itself, 0.0)
    weights = weights / weights.sum(1, keepdim=True)
    return -(weights * logits.log_softmax(1).masked_fill(itself, 0.0)).sum(1).mean()
