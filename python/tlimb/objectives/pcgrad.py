"""Gradients of several targets without the parts in which they work against each other.

Yu, Kumar, Gupta, Levine, Hausman, Finn (2020), "Gradient surgery for multi-task learning", NeurIPS.
"""

import torch
from torch import Tensor, nn

from tlimb.objectives.task_gradients import task_gradients, trained
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

    def __init__(self):
        super().__init__()

    def forward(self, losses: dict[str, Tensor], step: Step) -> Tensor:
        """Target -> mean loss of the batch, a scalar -> their mean, whose gradient is the one above."""
        mean = sum(losses.values()) / len(losses)
        shared = trained(step.network.encoder)
        if len(losses) < 2 or not shared or not step.training:
            return mean
        gradients = task_gradients(list(losses.values()), shared)
        change = (without_conflicts(gradients) - gradients).mean(0)
        parts = change.split([of.numel() for of in shared])
        added = sum((of * part.view_as(of).to(of.dtype)).sum() for of, part in zip(shared, parts))
        return mean + (added - added.detach())


def without_conflicts(gradients: Tensor) -> Tensor:
    """Gradients (T, P), each projected onto the normal plane of every other one that it conflicts with; the order is
    drawn from torch's generator."""
    projected = gradients.clone()
    for row, own in enumerate(projected):
        for other in torch.randperm(len(gradients)).tolist():
            product = own @ gradients[other]
            if other != row and product < 0:
                own -= product / gradients[other].square().sum() * gradients[other]
    return projected
