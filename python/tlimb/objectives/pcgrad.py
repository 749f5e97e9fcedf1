"""Gradients of several targets without the parts in which they work against each other.

Yu, Kumar, Gupta, Levine, Hausman, Finn (2020), "Gradient surgery for multi-task learning", NeurIPS.
"""

import torch
from torch import Tensor, nn

from tlimb.objectives.task_gradients import inner_products, task_gradients, trained
from tlimb.objectives.term import Step


class PCGrad(nn.Module):
    r"""The mean over targets t of L_t, with (1 / T) sum_t g_t' for its gradient in the encoder.

    g_t' begins as g_t, the gradient of L_t; for each other target u, in random order, it loses the part that works
    against that one's:

        g_t' <- g_t' - (g_t' . g_u) / ||g_u||^2 g_u   where g_t' . g_u < 0

    (the paper's algorithm 1). T counts the targets of which a scan of the batch has a label. The mean stands in place
    of the paper's sum: without conflict, training is what it is without `combine`. All parameters of the encoder that
    train are shared ones; heads keep the gradients of the mean. A step costs T backward passes more.
    """

    needs = ("targets", "moving")
    additive = True

    def __init__(self):
        super().__init__()

    def forward(self, losses: dict[str, Tensor], step: Step) -> Tensor:
        """Target -> mean loss of the batch, a scalar -> their mean, whose gradient is the one above."""
        mean = sum(losses.values()) / len(losses)
        shared = trained(step.network.encoder)
        if len(losses) < 2 or not shared or not step.training:
            return mean
        gradients = task_gradients(list(losses.values()), shared)
        shares = (without_conflicts(inner_products(gradients)) - torch.eye(len(losses))).mean(0)
        if not shares.any():
            return mean
        changes = [sum(share * one for share, one in zip(shares.tolist(), each)) for each in zip(*gradients)]
        added = sum((of * change).sum() for of, change in zip(shared, changes))
        return mean + (added - added.detach())


def without_conflicts(products: Tensor) -> Tensor:
    """What each gradient is made of, (T, T): row t are the factors of all gradients in g_t'; the order is drawn from
    torch's generator. products: g_t . g_u of all pairs, (T, T)."""
    factors = torch.eye(len(products), dtype=products.dtype)
    for row, own in enumerate(factors):
        for other in torch.randperm(len(products)).tolist():
            product = own @ products[:, other]
            if other != row and product < 0:
                own[other] -= product / products[other, other]
    return factors
