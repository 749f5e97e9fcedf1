"""Adversarial removal: features from which nobody can tell the site, scanner, age or sex."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from tlimb.errors import InputError, Problem
from tlimb.objectives.columns import column_of, groups_of, known
from tlimb.objectives.correlation_penalty import squared_correlations
from tlimb.objectives.domains import nothing
from tlimb.objectives.reversal import Adversary, require_at_least, reversed_gradient, strength_at
from tlimb.objectives.term import Beginning, Step, Term


class AdversarialRemoval(Term):
    r"""1/n sum_i l(A(R(f_i)), c_i).

    f are the encoder's features, c the label column, A a network that predicts it, R the reversal of gradients, dR/df
    = -lambda_p: A learns to tell c, and the encoder learns that it can't. l is the cross-entropy of classes, and the
    squared error of a standardised quantity. Ganin et al. (2016), "Domain-adversarial training of neural networks",
    JMLR 17, with the column in place of the domain; lambda_p as in `DANN`. Classes: Kim et al. (2019), "Learning not
    to learn", CVPR.

    With `loss` "correlation" the value is 1 - r^2, r Pearson's correlation of A(R(f)) and a quantity c over the scans
    of the batch, which an encoder cannot make worse for A by a mere shift or scale, as it can the squared error: Adeli
    et al. (2021), "Representation learning with statistical independence to mitigate bias", WACV; Zhao, Adeli, Pohl
    (2020), "Training confounder-free deep learning models for medical applications", Nature Communications 11.

    The sum is over all scans of the batch, labelled or not, that have c. within: target -> class; only scans with this
    class count, so that what c has to do with the target stays, as Zhao et al. do with controls. No scan, or with
    "correlation" fewer than three, is worth 0. width, depth: of A's hidden layers. schedule: False leaves lambda at 1.

    Raises InputError for sizes out of range; in `start` for columns, targets and classes that don't fit; after MixUp.
    """

    needs = ("column", "moving")
    sees_unlabelled = True
    on_features = True

    def __init__(
        self,
        column: str,
        loss: Literal["error", "correlation"] = "error",
        within: dict[str, str] | None = None,
        width: int = 128,
        depth: int = 2,
        schedule: bool = True,
    ):
        super().__init__()
        require_at_least(width=(width, 1), depth=(depth, 0))
        self.column, self.loss, self.within = column, loss, within
        self.width, self.depth, self.schedule = width, depth, schedule

    def start(self, beginning: Beginning) -> None:
        """Make the network that predicts the column."""
        column = column_of(self.column, beginning, "AdversarialRemoval")
        self.groups = groups_of(self.within, beginning, "AdversarialRemoval")
        self.quantity = column.kind == "regression"
        if self.loss == "correlation" and not self.quantity:
            message = f"'{self.column}' is {column.kind}; expected a quantity for the loss \"correlation\""
            raise InputError([Problem("objective.auxiliary: AdversarialRemoval.loss", message, 'set "error"')])
        outputs = 1 if self.quantity else len(column.classes)
        self.adversary = Adversary(beginning.network.encoder.features, outputs, self.width, self.depth)

    def forward(self, step: Step) -> Tensor:
        """The adversary's loss, a scalar."""
        counted, values = known(step, self.column, self.groups, "AdversarialRemoval")
        if counted.sum() < (3 if self.loss == "correlation" else 1):
            return nothing(step)
        features = reversed_gradient(step.passed.features, strength_at(step, self.schedule))
        predicted, values = self.adversary(features[counted]), values[counted]
        if self.loss == "correlation":
            return 1 - squared_correlations(predicted, values).mean()
        return mse_loss(predicted[:, 0], values) if self.quantity else cross_entropy(predicted, values.long())
