"""Mean teacher: predictions agree with those of a running mean of the network's weights.

Tarvainen, Valpola (2017), "Mean teachers are better role models: weight-averaged consistency targets improve
semi-supervised deep learning results", NeurIPS.
"""

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor

from tlimb.architectures.network import Network
from tlimb.errors import InputError, Problem
from tlimb.objectives.agreement import divergence, require_targets, squared_difference
from tlimb.objectives.own_pass import still_statistics
from tlimb.objectives.term import Beginning, Step, Term
from tlimb.objectives.views import views_of


class MeanTeacher(Term):
    r"""1 / \|B\| sum_{i in B} d(f(t x_i; w), f(t' x_i; w')), t and t' two draws of a view of scan x_i.

    w' are the teacher's weights. They begin as the network's w and follow after each step s = 1, 2, ... of the
    optimiser: w' <- a w' + (1 - a) w with a = min(1 - 1 / (s + 1), alpha), so that the first ones are true means as in
    the authors' code; alpha is `early_decay` in the first share `early` of all steps and `decay` after it. A running
    mean reaches back about 1 / (1 - alpha) steps: trainings of a few hundred steps want a `decay` of 0.95 to 0.99.

    B: all scans of a step, with labels and without. d, of classes with probabilities p (network) and q (teacher):
    1 / C \|\|p - q\|\|^2 (mse) or KL(q \|\| p) (kl); of quantities the squared difference in standard deviations (mse
    alone). Of several targets the mean. No gradient goes through the teacher.

    As in the authors' code the teacher is in training mode: dropout is on, batch norm takes the statistics of its
    batch. What is fixed in the network, and so in evaluation mode, is so in the teacher; running statistics are copied.
    To keep the teacher and not the network, give the stage's tuning an `average` of kind ema.

    views: augmentations on top of the stage's own, the usual ones where null. Raises InputError for numbers out of
    range, a stage without targets, and kl of a quantity that has no bins.
    """

    needs = ("target",)
    default_weight = {"ramp": "sigmoid", "start": 0.0, "end": 10.0, "until": 0.3}

    def __init__(
        self,
        decay: float = 0.999,
        early_decay: float = 0.99,
        early: float = 0.25,
        views: list[dict] | None = None,
        distance: Literal["mse", "kl"] = "mse",
    ):
        super().__init__()
        _check(decay=decay, early_decay=early_decay, early=early)
        self.decay, self.early_decay, self.early = decay, early_decay, early
        self.views, self.distance = views, distance

    def start(self, beginning: Beginning) -> None:
        """Copy the network, and build the views of images of so many axes."""
        require_targets("MeanTeacher", beginning.targets, self.distance)
        self.targets, self.view = beginning.targets, views_of(self.views, beginning)
        self.teacher = deepcopy(beginning.network).requires_grad_(False)
        self.until = self.early * beginning.total_steps
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar."""
        names = [target.name for target in self.targets]
        own = self._outputs(step.network, step, names)
        with torch.no_grad():
            taught = self._outputs(_in_mode_of(self.teacher, step.network), step, names)
        apart = squared_difference if self.distance == "mse" else divergence
        return sum(apart(of, own[of.name], taught[of.name]).mean() for of in self.targets) / len(names)

    @torch.no_grad()
    def after_step(self, network: Network) -> None:
        """Let the teacher follow."""
        self.steps += 1
        alpha = torch.where(self.steps <= self.until, self.early_decay, self.decay)
        share = 1 - torch.minimum(1 - 1 / (self.steps + 1), alpha)
        for mean, now in zip(self.teacher.parameters(), network.parameters(), strict=True):
            mean.lerp_(now, share.to(mean))
        for copied, now in zip(self.teacher.buffers(), network.buffers(), strict=True):
            copied.copy_(now)

    def _outputs(self, network: Network, step: Step, names: list[str]) -> dict[str, Tensor]:
        with still_statistics(network):
            return network.passed(self.view(step.images), names).outputs


def _in_mode_of(teacher: Network, network: Network) -> Network:
    """The teacher, each module of which is in training mode where that of the network is."""
    for own, other in zip(teacher.modules(), network.modules(), strict=True):
        own.training = other.training
    return teacher


def _check(**shares: float) -> None:
    problems = [
        Problem(name, f"expected a number from 0 to 1, found {value}")
        for name, value in shares.items()
        if not 0 <= value <= 1
    ]
    if problems:
        raise InputError(problems)
