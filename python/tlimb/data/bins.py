"""Bins of a quantity: what a soft-bin head has for its outputs."""

import math
from dataclasses import asdict, dataclass

import numpy as np

from tlimb.errors import InputError, Problem

SLACK = 1e-9
"""How far a number of widths may be from a whole one, to be taken for it."""


@dataclass(frozen=True)
class Bins:
    """Bins of equal `width` that cover [low, high], in the label's unit; a label is a normal distribution of standard
    deviation `sigma` over them."""

    low: float
    high: float
    width: float
    sigma: float

    @property
    def count(self) -> int:
        """How many bins there are."""
        return round((self.high - self.low) / self.width)

    @property
    def edges(self) -> np.ndarray:
        """The ends of all bins, (count + 1,) float64."""
        return self.low + self.width * np.arange(self.count + 1)

    @property
    def centres(self) -> np.ndarray:
        """The middles of all bins, (count,) float64."""
        return self.low + self.width * (np.arange(self.count) + 0.5)

    def facts(self) -> dict:
        """What is saved with a model."""
        return asdict(self)


def fit_bins(spec: dict, name: str, values: np.ndarray) -> Bins:
    """The bins that a head's `bins` ask for; open ends are those of the training labels, rounded outwards to a width.

    spec: {"low", "high", "width", "sigma"}; values: (n,) known labels of the training part. Raises InputError where
    widths do not fill the range, there are fewer than two, or a training label lies outside of them.
    """
    width, low, high = float(spec["width"]), spec["low"], spec["high"]
    if low is None:
        start = 0.0 if high is None else high
        low = start + width * math.floor((values.min() - start) / width + SLACK)
    if high is None:
        high = low + width * math.ceil((values.max() - low) / width - SLACK)
    bins = Bins(float(low), float(high), width, float(spec["sigma"]))
    count = (bins.high - bins.low) / width
    outside = int(((values < bins.low) | (values > bins.high)).sum())
    found = []
    if abs(count - round(count)) > 1e-6:
        found.append(f"bins {width:g} wide do not fill {bins.low:g} to {bins.high:g}; expected a whole number of them")
    elif round(count) < 2:
        found.append(f"{bins.low:g} to {bins.high:g} holds fewer than two bins {width:g} wide")
    if outside:
        ends = f"{bins.low:g} to {bins.high:g}"
        found.append(f"{outside} of {len(values)} training labels lie outside of the bins, {ends}")
    if found:
        raise InputError([Problem(f"heads.{name}.bins", message) for message in found])
    return bins
