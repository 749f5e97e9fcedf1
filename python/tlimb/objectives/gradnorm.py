"""Weights of several targets that let each of them learn at a like rate.

Chen, Badrinarayanan, Lee, Rabinovich (2018), "GradNorm: Gradient normalization for adaptive loss balancing in deep
multitask networks", ICML.
"""

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor, nn

from tlimb.architectures.network import Network
from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.objectives.task_gradients import inner_products, task_gradients, trained
from tlimb.objectives.term import Step

LEAST = 1e-3
"""The least weight that a target can have."""


class GradNorm(nn.Module):
    r"""sum_t w_t L_t / T, with weights that follow the training; they begin at 1, and their sum stays T.

    With G_t = w_t ||grad_W L_t||, G their mean over targets, and r_t = (L_t / L_t(0)) / mean_u (L_u / L_u(0)) how far
    behind target t is, each step moves w_t down the gradient of

        sum_t |G_t - G r_t^alpha|,   G r_t^alpha a constant,

    which is sign(G_t - G r_t^alpha) ||grad_W L_t||, by a step of Adam with rate `lr`; then no weight is below 0.001 and
    their sum is brought back. W are the parameters of the last of the encoder's blocks that trains (but for one that
    only normalises), L_t(0) is the loss of the first batch with labels. Targets without a label in the batch keep their
    weights. alpha, how strongly rates are drawn together, and Adam at 0.025 are the paper's (section 5.2); its sum is
    divided by T here, as the mean that stands without `combine`. The validation loss is the plain mean of the L_t.

    Raises InputError for an alpha that is negative, an lr that is not above 0, or either not finite.
    """

    needs = ("targets", "moving")

    def __init__(self, alpha: float = 1.5, lr: float = 0.025, *, targets: Sequence[Target]):
        super().__init__()
        problems = []
        if not 0 <= alpha < inf:
            problems.append(Problem("alpha", f"expected a number of at least 0, found {alpha}"))
        if not 0 < lr < inf:
            problems.append(Problem("lr", f"expected a number above 0, found {lr}"))
        if problems:
            raise InputError(problems)
        self.alpha, self.lr = float(alpha), float(lr)
        self.place = {target.name: number for number, target in enumerate(targets)}
        self.register_buffer("weights", torch.ones(len(targets)))
        for name in ("first_losses", "steps", "first_moments", "second_moments"):
            self.register_buffer(name, torch.zeros(len(targets)))

    def forward(self, losses: dict[str, Tensor], step: Step) -> Tensor:
        """Target -> mean loss of the batch, a scalar -> what is minimised, a scalar; the weights move after it."""
        at = torch.tensor([self.place[name] for name in losses], device=self.weights.device)
        weights = self.weights[at]
        total = sum(weight * loss for weight, loss in zip(weights, losses.values())) / len(losses)
        norms = self._norms(list(losses.values()), step.network) if step.training else None
        if norms is not None:
            self._move(at, torch.stack(list(losses.values())).detach().float(), norms)
        return total

    def _norms(self, losses: list[Tensor], network: Network) -> Tensor | None:
        """||grad_W L_t|| of each loss, (T,); None where no parameter that trains is shared."""
        for shared in blocks_from_the_end(network):
            norms = inner_products(task_gradients(losses, shared)).diagonal().sqrt().float()
            if norms.any():
                return norms.to(self.weights.device)
        return None

    @torch.no_grad()
    def _move(self, at: Tensor, losses: Tensor, norms: Tensor) -> None:
        """A step of the weights of the targets at some places. losses, norms: of these targets, without weights."""
        first = torch.where(self.steps[at] == 0, losses, self.first_losses[at])
        self.first_losses[at] = first
        gradient = weight_gradient(self.weights[at], norms, losses / first.clamp(min=1e-12), self.alpha)
        before = self.weights[at]
        moved = (before - self.lr * self._adam(at, gradient)).clamp(min=LEAST)
        self.weights[at] = moved * before.sum() / moved.sum()

    def _adam(self, at: Tensor, gradient: Tensor) -> Tensor:
        """The direction of a step: Kingma, Ba (2015), "Adam", ICLR, algorithm 1, with its usual numbers."""
        self.steps[at] += 1
        self.first_moments[at] = 0.9 * self.first_moments[at] + 0.1 * gradient
        self.second_moments[at] = 0.999 * self.second_moments[at] + 0.001 * gradient.square()
        first = self.first_moments[at] / (1 - 0.9 ** self.steps[at])
        second = self.second_moments[at] / (1 - 0.999 ** self.steps[at])
        return first / (second.sqrt() + 1e-8)


def weight_gradient(weights: Tensor, norms: Tensor, ratios: Tensor, alpha: float) -> Tensor:
    """The gradient (T,) of sum_t |G_t - G r_t^alpha| in the weights. norms: ||grad_W L_t||; ratios: L_t / L_t(0)."""
    lengths = weights * norms
    wanted = lengths.mean() * (ratios / ratios.mean().clamp(min=1e-12)).clamp(min=0) ** alpha
    return (lengths - wanted).sign() * norms


def blocks_from_the_end(network: Network) -> list[list[nn.Parameter]]:
    """The parameters that train of each of the encoder's blocks, from the last one on: of those that have weights of
    two or more axes, or of all where none has such ones that train."""
    blocks = [trained(network.encoder.get_submodule(name)) for name in reversed(network.encoder.blocks)]
    weighted = [block for block in blocks if any(parameter.ndim > 1 for parameter in block)]
    return weighted or [block for block in blocks if block]
