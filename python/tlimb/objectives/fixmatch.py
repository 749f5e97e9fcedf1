"""FixMatch: what a weak view is surely taken for is what a strong view is to be.

Sohn et al. (2020), "FixMatch: simplifying semi-supervised learning with consistency and confidence", NeurIPS.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tlimb.errors import InputError, Problem
from tlimb.objectives.domains import nothing
from tlimb.objectives.own_pass import still_statistics
from tlimb.objectives.term import Beginning, Step, Term
from tlimb.objectives.views import views_of

WEAK = [
    {"class_path": "RandomFlip", "init_args": {"probability": 0.5, "axes": [0]}},
    {
        "class_path": "RandomAffine",
        "init_args": {"probability": 1.0, "degrees": 3.0, "scale": 0.02, "translation": 1.0},
    },
]
STRONG = [
    *WEAK,
    {"class_path": "RandomBiasField", "init_args": {"probability": 0.8, "coefficients": 0.3}},
    {"class_path": "RandomGamma", "init_args": {"probability": 0.8, "log_gamma": 0.4}},
    {"class_path": "RandomBlur", "init_args": {"probability": 0.5, "sigma": 1.0}},
    {"class_path": "RandomNoise", "init_args": {"probability": 0.8, "sd": 0.5}},
    {"class_path": "RandomCutout", "init_args": {"probability": 1.0, "size": [0.2, 0.4]}},
]
"""Of slices and volumes. As in the paper weak is a flip and a small move, and strong is that, changes of intensity and
a box cut out; what scanners do to intensities is in the place of what RandAugment does to colours."""

WEAK_SERIES = [{"class_path": "RandomNoise", "init_args": {"probability": 1.0, "sd": 0.1}}]
STRONG_SERIES = [
    {"class_path": "RandomNoise", "init_args": {"probability": 1.0, "sd": [0.2, 0.6]}},
    {"class_path": "RandomCutout", "init_args": {"probability": 1.0, "size": [0.1, 0.4]}},
]


class FixMatch(Term):
    r"""1 / \|U\| sum_{i in U} [max_c q_ic >= threshold] H(argmax_c q_ic, p_i), H the cross-entropy.

    U: the scans of a step without labels, all of which the mean counts, however few are sure. q_i: the probabilities of
    scan i in a weak view, without a gradient; p_i: in a strong one. Of several targets the mean over those of classes;
    others are left out. The paper adds the labelled scans to U, without their labels.

    As in the authors' code both passes are in training mode; here each of the two takes its own batch statistics, where
    theirs takes one of labelled, weak and strong images together.

    threshold: from 0 (every scan has a pseudo label) to 1. weak, strong: augmentations on top of the stage's own, the
    usual ones where null. Raises InputError for a threshold out of range, and a stage without a target of classes.
    """

    needs = ("unlabelled",)
    kinds = ("classification",)

    def __init__(self, threshold: float = 0.95, weak: list[dict] | None = None, strong: list[dict] | None = None):
        super().__init__()
        if not 0 <= threshold <= 1:
            message = f"expected a number from 0 to 1, found {threshold}"
            raise InputError([Problem("threshold", message)])
        self.threshold, self.weak, self.strong = threshold, weak, strong

    def start(self, beginning: Beginning) -> None:
        """Build the views of images of so many axes."""
        self.names = [target.name for target in beginning.targets if target.kind == "classification"]
        if not self.names:
            found = ", ".join(f"{target.name} ({target.kind})" for target in beginning.targets) or "none"
            message = f"makes pseudo labels of classes, and the stage's targets are: {found}"
            raise InputError([Problem("objective.auxiliary: FixMatch", message, "expected MeanTeacher")])
        series = len(beginning.input_shape) == 2
        weak, strong = (WEAK_SERIES, STRONG_SERIES) if series else (WEAK, STRONG)
        self.weakly = views_of(weak if self.weak is None else self.weak, beginning)
        self.strongly = views_of(strong if self.strong is None else self.strong, beginning)

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar; 0 for a batch without scans of U."""
        images, network = step.unlabelled_images, step.network
        if not len(images):
            return nothing(step)
        with still_statistics(network):
            # First the pass with a gradient: what autocast keeps of weights in a pass without one has none.
            strong = network.passed(self.strongly(images), self.names).outputs
            with torch.no_grad():
                weak = network.passed(self.weakly(images), self.names).outputs
        return sum(self._of_target(weak[name], strong[name]) for name in self.names) / len(self.names)

    def _of_target(self, weak: Tensor, strong: Tensor) -> Tensor:
        sure, label = weak.float().softmax(dim=1).max(dim=1)
        each = cross_entropy(strong.float(), label, reduction="none")
        return torch.where(sure >= self.threshold, each, 0.0).mean()
