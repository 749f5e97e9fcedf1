"""Losses of several targets with weights that are said."""

from collections.abc import Sequence
from math import inf

from torch import Tensor, nn

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem, nearest
from tlimb.objectives.term import Step


class WeightedSum(nn.Module):
    r"""sum_t w_t L_t over the targets t of which a scan of the batch has a label.

    weights: target -> its weight, 1 for those that are not named; the sum is not divided by anything. Raises InputError
    for an unknown target, for weights that are negative or not finite, and where all are 0.
    """

    needs = ("targets",)
    additive = True

    def __init__(self, weights: dict[str, float], *, targets: Sequence[Target]):
        super().__init__()
        names = [target.name for target in targets]
        self.weights = dict.fromkeys(names, 1.0) | weights
        problems = [
            Problem(f"weights.{name}", "the stage has no such target", nearest(name, names))
            for name in weights
            if name not in names
        ]
        problems += [
            Problem(f"weights.{name}", f"expected a number of at least 0, found {value!r}")
            for name, value in weights.items()
            if not (isinstance(value, (int, float)) and 0 <= value < inf)
        ]
        if not problems and not any(self.weights.values()):
            problems.append(Problem("weights", "all are 0; nothing would be learned"))
        if problems:
            raise InputError(problems)

    def forward(self, losses: dict[str, Tensor], step: Step) -> Tensor:
        """Target -> mean loss of the batch, a scalar -> what is minimised, a scalar."""
        return self.measured(losses)

    def measured(self, losses: dict[str, Tensor]) -> Tensor:
        """The validation loss: the same sum."""
        return sum(self.weights[name] * loss for name, loss in losses.items())
