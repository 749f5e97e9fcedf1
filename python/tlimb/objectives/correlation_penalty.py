"""Correlation penalty: predictions, or features, that have nothing to do with a site, scanner, age or sex."""

from typing import Literal

import torch
from torch import Tensor

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.objectives.columns import column_of, groups_of, known
from tlimb.objectives.distances import distances, full_precision
from tlimb.objectives.domains import nothing
from tlimb.objectives.term import Beginning, Step, Term

FEWEST = {"squared": 3, "distance": 4}
"""Scans of a batch below which a kind says nothing."""

ROUNDING = 1e-10
"""The share of the squares of a column below which what varies in it is rounding."""


class CorrelationPenalty(Term):
    r"""squared: 1/m sum_j r_j^2, where r_j^2 = cov(z_j, c)^2 / (var z_j var c) of a quantity c, and of classes
    r_j^2 = sum_k n_k (mean_k z_j - mean z_j)^2 / sum_i (z_ij - mean z_j)^2.

    z (n, m) are the predictions, or the features, of the scans of the batch that have the column c. r^2 is the squared
    correlation of Pearson, of classes the correlation ratio; both are the share of z_j's variance that a linear model
    of c explains. Independent z and c have a mean of (k - 1) / (n - 1), k = 2 for a quantity, so small batches say
    little. Adeli et al. (2021), "Representation learning with statistical independence to mitigate bias", WACV, whose
    adversary's output stands in place of z; Zhao, Adeli, Pohl (2020), "Training confounder-free deep learning models
    for medical applications", Nature Communications 11.

    distance: R*(z, c) = <A, B> / sqrt(<A, A> <B, B>), the bias-corrected squared distance correlation. A holds the
    distances a_ij = ||z_i - z_j||, U-centred, A_ij = a_ij - a_i./(n - 2) - a_.j/(n - 2) + a_../((n - 1)(n - 2)) for
    i != j and 0 on the diagonal, B those of c, |c_i - c_j| or 1 between different classes. It sees dependence of every
    form, of all z_j at once, and is 0 on average, thus negative at times, where there is none. Székely, Rizzo (2014),
    "Partial distance correlation with methods for dissimilarities", Annals of Statistics 42; as a penalty: Zhen et al.
    (2022), "On the versatile uses of partial distance correlation in deep learning", ECCV.

    of: "outputs", what the heads of the stage's targets predict: a quantity, a risk, probabilities of classes;
    "features", those of the encoder. within: target -> class; only scans with this class count, as Zhao et al. do with
    controls. Fewer than 3 scans (4 for "distance") are worth 0, and so is a z_j or c without variance.

    Raises InputError in `start` for columns, targets and classes that don't fit; after MixUp.
    """

    needs = ("column",)
    sees_unlabelled = True
    on_features = True

    def __init__(
        self,
        column: str,
        kind: Literal["squared", "distance"] = "squared",
        of: Literal["outputs", "features"] = "outputs",
        within: dict[str, str] | None = None,
    ):
        super().__init__()
        self.column, self.kind, self.of, self.within = column, kind, of, within

    def start(self, beginning: Beginning) -> None:
        """Look the column up."""
        column = column_of(self.column, beginning, "CorrelationPenalty")
        self.classes, self.targets = len(column.classes), beginning.targets
        self.groups = groups_of(self.within, beginning, "CorrelationPenalty")
        if self.of == "outputs" and not self.targets:
            message = "the stage has no targets, so nothing is predicted"
            raise InputError([Problem("objective.auxiliary: CorrelationPenalty.of", message, 'set "features"')])

    def forward(self, step: Step) -> Tensor:
        """The penalty, a scalar."""
        counted, values = known(step, self.column, self.groups, "CorrelationPenalty")
        if counted.sum() < FEWEST[self.kind]:
            return nothing(step)
        if self.of == "features":
            shown = step.passed.features.float()
        else:
            shown = torch.cat([predicted(of, step.passed.outputs[of.name].float()) for of in self.targets], dim=1)
        with full_precision(shown):
            if self.kind == "distance":
                return distance_correlation(shown[counted], values[counted], self.classes)
            return squared_correlations(shown[counted], values[counted], self.classes).mean()


def predicted(target: Target, outputs: Tensor) -> Tensor:
    """A head's raw outputs (B, outputs) as what they predict, (B, m): risks, probabilities, and quantities in standard
    deviations of the training labels, with bins or without."""
    if target.bins:
        centres = torch.as_tensor((target.bins.centres - target.mean) / target.sd).to(outputs)
        return outputs.softmax(1) @ centres[:, None]
    if target.kind == "classification":
        return outputs.softmax(1)
    return outputs.sigmoid() if target.kind in ("ordinal", "multilabel") else outputs


def squared_correlations(z: Tensor, c: Tensor, classes: int = 0) -> Tensor:
    """The share of the variance of each column of z (n, m) that c (n,), a quantity or the number of one of `classes`
    classes, explains: (m,), from 0 to 1; 0 where either does not vary."""
    least = ROUNDING * z.square().sum(0)
    z = z - z.mean(0)
    if classes:
        inside = (c[:, None] == torch.arange(classes, device=c.device)).to(z.dtype)
    else:
        inside = (c - c.mean())[:, None]
    sizes = inside.square().sum(0)
    explained = ((inside.T @ z).square() / torch.where(sizes > 0, sizes, 1.0)[:, None]).sum(0)
    total = z.square().sum(0)
    return torch.where(total > least, explained / torch.where(total > least, total, 1.0), 0.0)


def distance_correlation(z: Tensor, c: Tensor, classes: int = 0) -> Tensor:
    """R* of z (n, m) and c (n,), a quantity or the number of one of `classes` classes: a scalar from -1 to 1, n above
    3; 0 where either does not vary."""
    apart = (c[:, None] != c[None]).to(z.dtype) if classes else (c[:, None] - c[None]).abs()
    a, b = _centred(distances(z)), _centred(apart)
    scale = a.square().sum() * b.square().sum()
    return (a * b).sum() / torch.where(scale > 0, scale, 1.0).sqrt()


def _centred(apart: Tensor) -> Tensor:
    """Distances (n, n), U-centred."""
    n = len(apart)
    sums = apart.sum(0)
    centred = apart - sums[:, None] / (n - 2) - sums[None] / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return centred * (1 - torch.eye(n, device=apart.device, dtype=apart.dtype))
