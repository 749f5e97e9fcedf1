"""Intensities brought to one scale that is fitted on the training scans, and on nothing else.

A normaliser has `fit`, which leaves JSON facts in `fitted`, and is called with images. Images are float16, as in the
store; voxels that are exactly 0 are background, take no part and stay 0.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from tlimb import registry
from tlimb.errors import InputError, Problem

VALUES = np.arange(2**16, dtype="uint16").view("float16").astype("float64")
"""What each of the 65536 patterns of 16 bits stands for as float16."""

RISING = np.argsort(np.where(np.isnan(VALUES), np.inf, VALUES), kind="stable")
"""The patterns ordered by their value, those that are no number last."""

ZERO = [0x0000, 0x8000]
"""The patterns of 0 and -0."""


class Normaliser(Protocol):
    """What a normaliser's class offers."""

    fitted: dict

    def fit(self, batches: Iterable[np.ndarray]) -> None:
        """Learn from the training images, given as batches (n, C, ...) float16, and keep JSON facts in `fitted`."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images (n, C, ...) float16 on the fitted scale, any float type."""


class DatasetZScore:
    """All images shifted and scaled alike, so that the foreground voxels of the training scans have mean 0 and sd 1.

    y = (x - mean) / sd, with mean and sd (divided by n) over all foreground voxels of all training scans, as
    trans-MRI's `DataBunch.normalize`. refit: fit again where the encoder that training starts from brings its own.
    """

    def __init__(self, refit: bool = False):
        self.refit, self.fitted = refit, {}

    def fit(self, batches: Iterable[np.ndarray]) -> None:
        """Mean and sd of the foreground. Raises InputError where it has no two different values."""
        counts = sum((_counts(batch) for batch in batches), np.zeros(2**16, dtype="int64"))
        known, n = counts.nonzero()[0], max(int(counts.sum()), 1)
        mean = float(counts[known] @ VALUES[known] / n)
        sd = float(np.sqrt(counts[known] @ (VALUES[known] - mean) ** 2 / n))
        if not sd > 0:
            message = "the training scans have no two different intensities"
            raise InputError([Problem("normalise DatasetZScore", message)])
        self.fitted = {"mean": mean, "sd": sd}

    @np.errstate(invalid="ignore")  # patterns that are no number, which no store holds
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images (n, C, ...) on the common scale, float32."""
        table = ((VALUES - self.fitted["mean"]) / self.fitted["sd"]).astype("float32")
        table[ZERO] = 0
        return table[_patterns(images)]


class HistogramStandardisation:
    """Each image's histogram brought to the mean one of the training scans, piecewise linearly between landmarks.

    Landmarks m_1 .. m_k of an image are percentiles of its foreground: the two of `percentiles` and the deciles between
    them. With the standard scale [s_1, s_2], training image i maps its landmarks to

        L_ij = s_1 + (m_ij - m_i1) (s_2 - s_1) / (m_ik - m_i1),

    the standard landmarks are their means t_j = mean_i L_ij, and an image is mapped linearly from [m_j, m_j+1] to
    [t_j, t_j+1]; below the first and above the last landmark the outer pieces go on.

    percentiles: the outer landmarks, 0 to 100. scale: [s_1, s_2]. refit: fit again where the encoder that training
    starts from brings its own.

    References: L. G. Nyul, J. K. Udupa, On standardizing the MR image intensity scale, Magnetic Resonance in Medicine
    42 (1999) 1072-1081; L. G. Nyul, J. K. Udupa, X. Zhang, New variants of a method of MRI scale standardization, IEEE
    Transactions on Medical Imaging 19 (2000) 143-150.
    """

    def __init__(self, percentiles: list[float] | None = None, scale: list[float] | None = None, refit: bool = False):
        low, high = percentiles or [1.0, 99.0]
        bottom, top = scale or [0.0, 1.0]
        problems = []
        if not 0 <= low < high <= 100:
            problems.append(("percentiles", f"expected 0 <= low < high <= 100, found {percentiles}"))
        if not bottom < top:
            problems.append(("scale", f"expected the lower end first, found {scale}"))
        if problems:
            raise InputError([Problem(f"normalise.init_args.{name}", message) for name, message in problems])
        inner = [float(part) for part in range(10, 100, 10) if low < part < high]
        self.percentiles, self.scale = [low, *inner, high], (bottom, top)
        self.refit, self.fitted = refit, {}

    def fit(self, batches: Iterable[np.ndarray]) -> None:
        """The standard landmarks. Raises InputError where no training scan has landmarks that differ."""
        low, high = self.scale
        marks = [landmarks(image, self.percentiles) for batch in batches for image in batch]
        mapped = [low + (m - m[0]) * (high - low) / (m[-1] - m[0]) for m in marks if m is not None and m[-1] > m[0]]
        if not mapped:
            message = "no training scan has landmarks that differ"
            raise InputError([Problem("normalise HistogramStandardisation", message)])
        self.fitted = {"percentiles": self.percentiles, "landmarks": np.mean(mapped, axis=0).tolist()}

    @np.errstate(invalid="ignore")  # patterns that are no number, which no store holds
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images (n, C, ...) on the standard scale, float32; an image without foreground is returned as it is."""
        return np.stack([self._standardised(image) for image in images])

    def _standardised(self, image: np.ndarray) -> np.ndarray:
        own, standard = landmarks(image, self.percentiles), np.asarray(self.fitted["landmarks"])
        if own is None:
            return image.astype("float32")
        rises = np.diff(own)
        slopes = np.divide(np.diff(standard), rises, out=np.zeros_like(rises), where=rises > 0)
        piece = np.searchsorted(own[1:-1], VALUES, side="right")
        table = (standard[piece] + slopes[piece] * (VALUES - own[piece])).astype("float32")
        table[ZERO] = 0
        return table[_patterns(image)]


def landmarks(image: np.ndarray, percentiles: list[float]) -> np.ndarray | None:
    """Percentiles of a float16 image's foreground, interpolated linearly between ranks; None where it has none.

    An image has at most 65536 different values, so counting them takes the place of sorting voxels.
    """
    up_to = np.cumsum(_counts(image)[RISING])
    if up_to[-1] == 0:
        return None
    ranks = np.asarray(percentiles) / 100 * (up_to[-1] - 1)
    whole = np.floor(ranks)
    below, above = (VALUES[RISING[np.searchsorted(up_to, rank, side="right")]] for rank in (whole, np.ceil(ranks)))
    return below + (above - below) * (ranks - whole)


def _patterns(images: np.ndarray) -> np.ndarray:
    """Images' bits as uint16, in the same shape."""
    return np.ascontiguousarray(images, dtype="float16").view("uint16")


def _counts(images: np.ndarray) -> np.ndarray:
    """How often each pattern of bits stands in the foreground."""
    counts = np.bincount(_patterns(images).ravel(), minlength=2**16)
    counts[ZERO] = 0
    return counts


def build_normaliser(spec: dict, trusted=()) -> Normaliser:
    """A normaliser as `spec` names it; one with `fitted` facts, as in model.json, is ready for use."""
    normaliser = registry.load("normalise", spec["class_path"], trusted)(**spec["init_args"])
    normaliser.fitted = spec.get("fitted", {})
    return normaliser


def fit_normaliser(spec: dict, earlier: dict | None, batches: Callable[[], Iterable[np.ndarray]], trusted=()) -> dict:
    """`spec` with what was fitted, as it stands in model.json.

    earlier: what the encoder that training starts from was trained with. If it is the same class with the same
    arguments it is used as it stands, for the encoder knows intensities on that scale only; unless `refit` asks for a
    new fit. batches: gives the training images when called.
    """
    normaliser = build_normaliser(spec, trusted)
    alike = registry.normaliser_key(spec) == registry.normaliser_key(earlier)
    if earlier is not None and alike and not spec["init_args"].get("refit", False):
        return spec | {"fitted": earlier["fitted"]}
    normaliser.fit(batches())
    return spec | {"fitted": normaliser.fitted}
