"""Transform consistency: two views of a scan get one prediction.

Laine, Aila (2017), "Temporal ensembling for semi-supervised learning", ICLR, there the Pi-model. Sajjadi, Javanmardi,
Tasdizen (2016), "Regularization with stochastic transformations and perturbations for deep semi-supervised learning",
NeurIPS.
"""

from typing import Literal

from torch import Tensor

from tlimb.objectives.agreement import divergence, require_targets, squared_difference
from tlimb.objectives.own_pass import still_statistics
from tlimb.objectives.term import Beginning, Step, Term
from tlimb.objectives.views import views_of


class TransformConsistency(Term):
    r"""1 / \|B\| sum_{i in B} d(f(t x_i), f(t' x_i)), f the prediction, t and t' two draws of a view of scan x_i.

    B: all scans of a step, with labels and without. d, of classes with probabilities p and q: 1 / C \|\|p - q\|\|^2
    (mse) or (KL(p \|\| q) + KL(q \|\| p)) / 2 (kl); of quantities the squared difference in standard deviations (mse
    alone). Of several targets the mean. As in both papers the gradient goes through both passes, and dropout differs
    between them; kl is an addition, for which they have no counterpart.

    The weight ramps up, as in Laine and Aila: agreement before anything is learned is that of one prediction for all.

    views: augmentations on top of the stage's own, the usual ones where null. Raises InputError for a stage without
    targets, and for kl of a quantity that has no bins.
    """

    needs = ("target",)
    default_weight = {"ramp": "sigmoid", "start": 0.0, "end": 10.0, "until": 0.3}

    def __init__(self, views: list[dict] | None = None, distance: Literal["mse", "kl"] = "mse"):
        super().__init__()
        self.views, self.distance = views, distance

    def start(self, beginning: Beginning) -> None:
        """Build the views of images of so many axes."""
        require_targets("TransformConsistency", beginning.targets, self.distance)
        self.targets, self.view = beginning.targets, views_of(self.views, beginning)

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar."""
        names = [target.name for target in self.targets]
        with still_statistics(step.network):
            one, two = (step.network.passed(self.view(step.images), names).outputs for _ in range(2))
        return sum(self._apart(of, one[of.name], two[of.name]).mean() for of in self.targets) / len(names)

    def _apart(self, target, one: Tensor, two: Tensor) -> Tensor:
        if self.distance == "mse":
            return squared_difference(target, one, two)
        return (divergence(target, one, two) + divergence(target, two, one)) / 2
