"""Boosted trees: fitted by scikit-learn, kept as tensors, evaluated by torch."""

import numpy as np
import torch
from torch import Tensor, nn

from tlimb.architectures.linear_fit import cross_entropy


class BoostedTreesHead(nn.Module):
    """Features (B, F) -> (B, outputs): for each output a constant and a sum of binary trees, all of one depth D.

    A tree has the nodes 0 .. 2^D - 2, where node i leads to 2 i + 1 if features[feature[i]] <= threshold[i] and to
    2 i + 2 otherwise, and then 2^D leaves. A branch that ends early goes left to its end by thresholds of infinity;
    trees that were not needed have the value 0. There is nothing that a gradient could train.

    encoder: says the number of `trees` for each output and their `depth`.
    """

    feature: Tensor

    def __init__(self, encoder: nn.Module, outputs: int):
        super().__init__()
        self.depth = encoder.depth
        nodes, shape = 2**self.depth - 1, (outputs, encoder.trees)
        self.register_buffer("feature", torch.zeros(*shape, nodes, dtype=torch.int32))
        self.threshold = _fixed(torch.full((*shape, nodes), torch.inf))
        self.value = _fixed(torch.zeros(*shape, nodes + 1, dtype=torch.float64))
        self.constant = _fixed(torch.zeros(outputs, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, outputs), float32; sums are in float64."""
        scans, features = features.shape[0], features.float()
        outputs, trees, nodes = self.threshold.shape
        feature, threshold = self.feature.reshape(-1), self.threshold.reshape(-1)
        tree = torch.arange(outputs * trees, device=features.device)
        node = torch.zeros(scans, outputs * trees, dtype=torch.long, device=features.device)
        for _ in range(self.depth):
            place = tree * nodes + node
            node = 2 * node + 1 + (features.gather(1, feature[place].long()) > threshold[place])
        values = self.value.reshape(-1)[tree * (nodes + 1) + node - nodes]
        return (self.constant + values.reshape(scans, outputs, trees).sum(2)).float()

    @torch.no_grad()
    def take(self, column: int, constant: float, trees: list[np.ndarray], scale: float = 1.0) -> None:
        """Become, for one output, the scaled sum of a constant and scikit-learn's trees (their arrays of nodes)."""
        self.feature[column], self.threshold[column], self.value[column] = 0, torch.inf, 0.0
        self.constant[column] = scale * constant
        for number, nodes in enumerate(trees):
            feature, threshold, value = complete(nodes, self.depth)
            self.feature[column, number] = torch.from_numpy(feature)
            self.threshold[column, number] = torch.from_numpy(threshold)
            self.value[column, number] = torch.from_numpy(scale * value)


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def complete(nodes: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A tree of HistGradientBoosting as one whose every branch is `depth` long.

    nodes: its structured array. Returns feature (2^depth - 1,) int32, threshold (2^depth - 1,) float32 and value
    (2^depth,) float64. A threshold becomes the greatest float32 that is not above it: it parts float32 features alike.
    """
    feature = np.zeros(2**depth - 1, np.int32)
    threshold = np.full(2**depth - 1, np.inf, np.float32)
    value = np.zeros(2**depth)
    branches = [(0, 0)]
    while branches:
        place, index = branches.pop()
        node = nodes[index]
        if node["is_leaf"]:
            while place < len(feature):
                place = 2 * place + 1
            value[place - len(feature)] = node["value"]
        else:
            feature[place], threshold[place] = node["feature_idx"], not_above(node["num_threshold"])
            branches += [(2 * place + 1, node["left"]), (2 * place + 2, node["right"])]
    return feature, threshold, value


def not_above(value: float) -> np.float32:
    """The greatest float32 that is not above a float64."""
    near = np.float32(value)
    return np.nextafter(near, np.float32(-np.inf)) if float(near) > value else near


def fit_trees(
    head: BoostedTreesHead,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    learning_rate: float,
    least: int,
) -> int:
    """Fit a head's trees to features (n, F) and labels (n,): values, or class numbers where `classes` is not 0.

    As many of the `trees` that a head has room for are kept as bring the least loss on the validation part: the mean
    squared error, or the mean cross-entropy. least: scans in a leaf. Returns the number kept.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    model = kind(
        learning_rate=learning_rate,
        max_iter=head.threshold.shape[1],
        max_depth=head.depth,
        max_leaf_nodes=None,
        min_samples_leaf=least,
        early_stopping=False,
        random_state=0,  # nothing is drawn but bins, from more than 200,000 scans
    ).fit(*train)
    kept = 1 + int(np.argmin(_losses(model, *validation, classes)))
    sums = [[iteration[k].nodes for iteration in model._predictors[:kept]] for k in range(len(model._predictors[0]))]
    constants = np.ravel(model._baseline_prediction)
    if classes:
        _take_classes(head, model.classes_.astype(int), constants, sums, len(train[1]))
    else:
        head.take(0, constants[0], sums[0])
    return kept


def _take_classes(head: BoostedTreesHead, known: np.ndarray, constants, sums, n: int) -> None:
    """Logits of the classes that were there in training, of two as mirror images, and log 1/n of the others."""
    for column in range(len(head.constant)):
        head.take(column, -np.log(n), [])
    if len(known) == 2:
        for column, side in zip(known, (-0.5, 0.5)):
            head.take(column, constants[0], sums[0], side)
    else:
        for column, constant, trees in zip(known, constants, sums):
            head.take(column, constant, trees)


def _losses(model, features: np.ndarray, labels: np.ndarray, classes: int) -> list[float]:
    """The loss on some scans of the first 1, 2, ... trees."""
    if not classes:
        return [float(np.mean((predicted - labels) ** 2)) for predicted in model.staged_predict(features)]
    known = np.isin(labels, model.classes_)
    column = np.searchsorted(model.classes_, labels[known])
    raws = (raw[known] for raw in model.staged_decision_function(features))
    return [cross_entropy(np.stack([-raw / 2, raw / 2], 1) if raw.ndim == 1 else raw, column) for raw in raws]
