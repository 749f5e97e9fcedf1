"""BYOL: of one view a network predicts what its own slowly moving copy makes of the other."""

import math
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tlimb.architectures.network import Network
from tlimb.errors import InputError, Problem
from tlimb.objectives.numbers import at_least
from tlimb.objectives.own_pass import kept_statistics
from tlimb.objectives.term import Beginning, Step, Term
from tlimb.objectives.views import require_company, views_of


class BYOL(Term):
    r"""mean over scans of |q - z'|^2 + |q' - z|^2 of unit vectors: 4 - 2 cos(q, z') - 2 cos(q', z), from 0 to 8.

    q and q' are what the head "prediction" predicts from two views, z and z' what the target projects of them: a copy
    of encoder and projection that has no gradient and moves after each step of the optimiser,

        xi <- tau xi + (1 - tau) theta,    tau = 1 - (1 - momentum) (cos(pi k / K) + 1) / 2

    at step k = 0, 1, ... of K. Grill et al. (2020), "Bootstrap your own latent: A new approach to self-supervised
    learning", NeurIPS, equations 1 and 2. The target's batch norms work as the network's do: by the statistics of each
    batch in training, and else by running ones of their own, as in the authors' code. Each view passes by itself.

    Its value is against a target that moves too, so that the lowest one on the validation part is not the best network:
    keep the last epoch's (`"trainer": {"keep": "last"}`).

    It learns from all scans of a batch, labelled or not, and compares none with another, so that several devices change
    only what batch norm sees. For batch norm a training batch of one scan is an error; beside targets the network's
    running statistics do not move.

    momentum: tau at the first step, from 0 to 1. views: augmentations {"class_path", "init_args"} that make a view;
    null for the usual ones.
    """

    needs = ("moving",)
    on_images = True
    own_pass = True
    heads = {"prediction": {"class_path": "PredictionHead", "init_args": {}}}

    def __init__(self, momentum: float = 0.996, views: list[dict] | None = None):
        super().__init__()
        at_least(momentum=(momentum, 0))
        if momentum > 1:
            raise InputError([Problem("momentum", f"expected a number from 0 to 1, found {momentum}")])
        self.momentum, self.views = momentum, views
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def start(self, beginning: Beginning) -> None:
        """Build the views, and copy what the target is of. Raises InputError for views that do not suit the images, and
        for a head without a projection."""
        self.view, self.total = views_of(self.views, beginning), beginning.total_steps
        head = beginning.network.head("prediction")
        if not hasattr(head, "projection"):
            message = f"{type(head).__name__} has no projection that could be predicted"
            raise InputError([Problem("heads.prediction", message, "expected PredictionHead, or one of its form")])
        self.target = deepcopy(projecting(beginning.network)).requires_grad_(False)

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar."""
        if step.training:
            require_company(step)
        views = self.view(step.images), self.view(step.images)
        with kept_statistics(step):
            predicted = [step.network.passed(view, names=["prediction"]).outputs["prediction"] for view in views]
        for copied, module in zip(self.target.modules(), projecting(step.network).modules(), strict=True):
            copied.training = module.training
        with torch.no_grad():
            projected = [self.target(view)["projection"] for view in views]
        return distance(predicted[0], projected[1]) + distance(predicted[1], projected[0])

    @torch.no_grad()
    def after_step(self, network: Network) -> None:
        """Let the target follow."""
        done = (self.steps / self.total).clamp(max=1)
        share = (1 - self.momentum) * (torch.cos(math.pi * done) + 1) / 2
        for moving, weight in zip(self.target.parameters(), projecting(network).parameters(), strict=True):
            moving.lerp_(weight, share.to(moving))
        self.steps += 1


def projecting(network: Network) -> Network:
    """The part of a network that projects images, as a network with the head "projection"; its modules are the same."""
    part = Network(network.encoder, {"projection": network.head("prediction").projection})
    part.dropout, part.training = network.dropout, network.training
    return part


def distance(predicted: Tensor, projected: Tensor) -> Tensor:
    """The squared distance between unit vectors along the rows of (n, d), a mean over rows."""
    return (2 - 2 * cosine_similarity(predicted, projected, dim=1)).mean()
