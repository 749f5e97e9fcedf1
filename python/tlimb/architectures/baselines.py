"""Baselines on simple features: encoders without trainable parameters whose heads are fitted at once."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tlimb.architectures.arguments import PLACE
from tlimb.architectures.boosted_trees import BoostedTreesHead, fit_trees
from tlimb.architectures.heads import LinearHead
from tlimb.architectures.linear_fit import fit_logistic, fit_ridge
from tlimb.architectures.simple_features import simple_features
from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem

Part = tuple[np.ndarray, list[np.ndarray]]
"""Features (n, F) of some scans, and their labels (n,) for each target, NaN where missing."""

Labelled = tuple[np.ndarray, np.ndarray]
"""Features (n, F) of the scans that have a target's label, and their labels (n,), float64."""


class Baseline(nn.Module, ABC):
    """Simple features of scans, and a head of the form `head_class` fitted to them for each target.

    input_shape, recipe: of the data.
    """

    kinds = (1, 3)
    blocks = ("simple",)
    head_class: type

    def __init__(self, input_shape: tuple[int, ...] = (), recipe: dict | None = None):
        super().__init__()
        self.simple = simple_features(input_shape, recipe)
        self.dims, self.features = len(input_shape) - 1, self.simple.width

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) or (B, regions, time points) -> (B, features)."""
        return self.simple(images)

    def fit_heads(
        self, heads: Sequence[nn.Module], targets: Sequence[Target], train: Part, validation: Part
    ) -> list[str]:
        """Fit the head of each target; what was chosen for each, in words.

        Raises InputError for a head or a target of another kind than those it can fit.
        """
        _require(heads, targets, self.head_class, type(self).__name__)
        found = []
        for head, target, labelled, measured in _labelled(heads, targets, train, validation):
            chosen = self.fit(head, target, labelled, measured)
            found.append(f"{target.name}: {chosen}, {len(labelled[1])} scans")
        return found

    @abstractmethod
    def fit(self, head: nn.Module, target: Target, train: Labelled, validation: Labelled) -> str:
        """Fit one head; what was chosen, in words."""


class LinearBaseline(Baseline):
    """Ridge and logistic regression on regional means and volumes, or on functional connectivity.

    Features: `simple_features.RegionalFeatures` of whole volumes in template space, 160 numbers;
    `simple_features.Connectivity` of time series. Nothing of the encoder is trained; each target's linear head is
    fitted on the training scans that have its label, features standardised on them, and the penalty chosen by the
    validation loss (`linear_fit`). No random number is drawn, so every seed gives the same model.

    Schulz et al. (2020), "Different scaling of linear models and deep learning in UKBiobank brain images versus
    machine-learning datasets", Nature Communications 11, 4238, find linear models of brain images level with kernels
    and deep nets up to 10,000 persons; He et al. (2020), "Deep neural networks and kernel regression achieve comparable
    accuracies for functional connectivity prediction of behavior and demographics", NeuroImage 206, 116276, find kernel
    ridge regression on connectivity level with deep nets.

    input_shape, recipe: of the data.
    """

    reference = "Schulz et al. 2020, Nat Commun; He et al. 2020, NeuroImage"
    default_head = "LinearHead"
    head_class = LinearHead

    def fit(self, head: nn.Module, target: Target, train: Labelled, validation: Labelled) -> str:
        """Fit one linear head; the penalty that was chosen."""
        if target.kind == "regression":
            weights, constants, penalty = fit_ridge(train, validation)
        else:
            weights, constants, penalty = fit_logistic(train, validation, len(target.classes))
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weights))
            head.bias.copy_(torch.from_numpy(constants))
        return f"penalty {penalty:.3g}"


class BoostedBaseline(Baseline):
    """Gradient-boosted trees on regional means and volumes, or on functional connectivity.

    The features are those of LinearBaseline; each target's head is fitted on the training scans that have its label by
    scikit-learn's HistGradientBoosting, squared error or cross-entropy, and keeps as many trees as bring the least
    validation loss. Every seed gives the same model.

    Friedman (2001), "Greedy function approximation: a gradient boosting machine", Annals of Statistics 29, 1189-1232;
    with histograms as in Ke et al. (2017), "LightGBM: a highly efficient gradient boosting decision tree", NeurIPS.

    trees: the most that are fitted for each output. depth: of each tree. learning_rate: what each tree is shrunk by.
    least: scans in a leaf, at least. input_shape, recipe: of the data. Raises InputError for numbers out of range.
    """

    reference = "Friedman 2001, Ann Stat; Ke et al. 2017, NeurIPS"
    default_head = "tlimb.architectures.boosted_trees.BoostedTreesHead"
    head_class = BoostedTreesHead

    def __init__(
        self,
        trees: int = 300,
        depth: int = 3,
        learning_rate: float = 0.05,
        least: int = 10,
        input_shape: tuple[int, ...] = (),
        recipe: dict | None = None,
    ):
        expected = {
            "trees": (trees, trees >= 1, "at least 1"),
            "depth": (depth, 1 <= depth <= 10, "1 to 10"),
            "learning_rate": (learning_rate, 0 < learning_rate <= 1, "a number above 0, at most 1"),
            "least": (least, least >= 1, "at least 1"),
        }
        wrong = [(name, value, text) for name, (value, fits, text) in expected.items() if not fits]
        if wrong:
            messages = {name: f"expected {text}, found {value}" for name, value, text in wrong}
            raise InputError([Problem(f"{PLACE}.{name}", text) for name, text in messages.items()])
        super().__init__(input_shape, recipe)
        self.trees, self.depth, self.learning_rate, self.least = trees, depth, learning_rate, least

    def fit(self, head: nn.Module, target: Target, train: Labelled, validation: Labelled) -> str:
        """Fit one head of trees; how many were kept."""
        kept = fit_trees(head, train, validation, len(target.classes), self.learning_rate, self.least)
        return f"{kept} of {self.trees} trees"


def _require(heads: Sequence[nn.Module], targets: Sequence[Target], head_class: type, name: str) -> None:
    """That heads are of the one form that is fitted, for values or for classes that exclude each other."""
    problems = []
    for head, target in zip(heads, targets):
        widths = {"regression": 1, "classification": len(target.classes)}
        if widths.get(target.kind) != target.outputs:
            kind = "soft-bin regression" if target.kind == "regression" else target.kind
            message = f"{name} is fitted for regression and classification, not for {kind}"
            problems.append(Problem(f"target {target.name}", message))
        elif not isinstance(head, head_class):
            message = f"{name} fits a {head_class.__name__}, found a {type(head).__name__}"
            problems.append(Problem(f"heads.{target.name}", message, "leave it out"))
    if problems:
        raise InputError(problems)


def _labelled(
    heads: Sequence[nn.Module], targets: Sequence[Target], train: Part, validation: Part
) -> Iterator[tuple[nn.Module, Target, Labelled, Labelled]]:
    """Each head with its target and what is known of it: features and labels of both parts."""
    for number, (head, target) in enumerate(zip(heads, targets)):
        known = []
        for features, labels in (train, validation):
            there = ~np.isnan(labels[number])
            known.append((features[there].astype("float64"), labels[number][there].astype("float64")))
        yield head, target, *known
