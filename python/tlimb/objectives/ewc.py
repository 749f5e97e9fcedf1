"""Elastic weight consolidation: stay near the pretrained weights where the source task needs them.

Kirkpatrick, Pascanu, Rabinowitz et al. (2017), "Overcoming catastrophic forgetting in neural networks", PNAS 114.
"""

from torch import Tensor

from tlimb.errors import InputError, Problem, nearest
from tlimb.objectives.frozen import require_pretrained
from tlimb.objectives.term import Beginning, Step, Term


class EWC(Term):
    r"""1/2 sum_i F_i (theta_i - theta*_i)^2 over all parameters of the encoder.

    theta* are the values they start from, F the diagonal of the Fisher information of a scan of the stage before at
    them, which that stage keeps where it says ``"fisher": true`` (`tlimb.scenarios.fisher`). The weight of the term is
    the paper's lambda. F is of one scan: where the loss is a mean over scans of -log p, the weight n_before / n_now, of
    the numbers of training scans, is Laplace's approximation of the posterior after both stages. A squared error is
    twice -log p of a quantity but for a constant, so that its weight is 2 n_before / n_now. Of T targets the loss is a
    mean, and -log p a sum: divide by T. New heads are free.

    Raises InputError where the encoder is not pretrained, or where the stage before kept no such information or that of
    another encoder.
    """

    needs = ("pretrained", "whole", "fisher", "moving")
    on_features = True

    def __init__(self):
        super().__init__()

    def start(self, beginning: Beginning) -> None:
        """Copy the parameters that the encoder starts from, and what they mattered before."""
        require_pretrained(beginning, "EWC")
        parameters, fisher = dict(beginning.network.encoder.named_parameters()), beginning.fisher
        where = "objective.auxiliary: EWC"
        if fisher is None:
            message = "the stage before kept no Fisher information"
            raise InputError([Problem(where, message, 'set "fisher": true in that stage')])
        problems = [
            Problem(where, f"the Fisher information lacks the encoder's {name}", nearest(name, fisher))
            for name, parameter in parameters.items()
            if name not in fisher or fisher[name].shape != parameter.shape
        ]
        if problems:
            raise InputError(problems)
        for number, (name, parameter) in enumerate(parameters.items()):
            self.register_buffer(f"start{number}", parameter.detach().clone())
            self.register_buffer(f"fisher{number}", fisher[name].to(parameter.dtype).clone())

    def forward(self, step: Step) -> Tensor:
        """The penalty, a scalar."""
        found = enumerate(step.network.encoder.parameters())
        kept = ((parameter, getattr(self, f"start{n}"), getattr(self, f"fisher{n}")) for n, parameter in found)
        return sum((fisher * (parameter - start).square()).sum() for parameter, start, fisher in kept) / 2
