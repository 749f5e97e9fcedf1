"""A mean map over the template's slices, as a small PNG."""

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np

from tlimb.files import replacing

SIZE, DPI = (9.0, 3.3), 90
"""Of the picture in inches, and its dots an inch."""

FAINT = 0.08
"""Values below this part of the largest are not drawn."""

COLOURS = 256
"""In the file; more would cost bytes."""

AXES = ("x", "y", "z")
PLANES = (0, 1, 2)
"""Sagittal, coronal, axial: the axis that each cuts."""

Volume = tuple[np.ndarray, np.ndarray]
"""(X, Y, Z) and its affine (4, 4) to mm."""


@dataclass(frozen=True)
class Caption:
    """What a picture says: its title, what its colours are counted in, and whether they have two signs."""

    title: str
    unit: str
    signed: bool

    def colours(self, limit: float) -> dict:
        """What matplotlib is told of values up to a limit."""
        return {"cmap": "RdBu_r" if self.signed else "YlOrRd", "vmin": -limit if self.signed else 0.0, "vmax": limit}


def template() -> Volume:
    """The template's brain (X, Y, Z) float32, 0 outside of it, and its affine (4, 4)."""
    return _template()


@lru_cache(maxsize=1)
def _template() -> Volume:
    from tlimb.preprocess.template import template_path

    image = nibabel.load(template_path())
    return image.get_fdata(dtype=np.float32), np.asarray(image.affine, float)


def draw(path: Path, over: Volume, ground: Volume, at: np.ndarray, caption: Caption) -> None:
    """Write three planes through a place (3,) in mm, as a PNG on white with a colour bar; left is on the left.

    over: a map; ground: an image in grey below it, 0 outside of the brain. Affines are diagonal but for their shifts.
    """
    from matplotlib.figure import Figure

    limit = float(np.abs(over[0]).max()) or 1.0
    figure = Figure(SIZE, DPI, layout="constrained", facecolor="white")
    panels = figure.subplots(1, 3)
    low, high = _window(ground[0])
    for panel, axis in zip(panels, PLANES):
        under, extent = _plane(*ground, axis, at)
        shown = np.ma.masked_less_equal(under, low)
        panel.imshow(shown, cmap="gray", vmin=low - 1.2 * (high - low), vmax=high, extent=extent, origin="lower")
        values, extent = _plane(*over, axis, at)
        strength = np.abs(values) / limit
        alpha = np.where(strength < FAINT, 0.0, np.clip(0.25 + 1.5 * strength, 0, 0.9))
        placed = {"extent": extent, "origin": "lower", "interpolation": "nearest"}
        panel.imshow(values, alpha=alpha, **placed, **caption.colours(limit))
        panel.set(title=f"{AXES[axis]} = {at[axis]:.0f} mm", xticks=[], yticks=[])
        panel.title.set_fontsize(9)
        panel.set_xlim(*_limits(ground, _across(axis)[0]))
        panel.set_ylim(*_limits(ground, _across(axis)[1]))
        for side in panel.spines.values():
            side.set_visible(False)
    _bar(figure, panels, caption, limit)
    save(figure, path)


def draw_table(path: Path, values: np.ndarray, caption: Caption) -> None:
    """Write a map of time series, (regions, time), as a PNG."""
    from matplotlib.figure import Figure

    limit = float(np.abs(values).max()) or 1.0
    figure = Figure(SIZE, DPI, layout="constrained", facecolor="white")
    panel = figure.subplots()
    panel.imshow(values, aspect="auto", interpolation="nearest", **caption.colours(limit))
    panel.set(xlabel="time point", ylabel="region")
    _bar(figure, panel, caption, limit)
    save(figure, path)


def save(figure, path: Path) -> None:
    """Write a figure as a PNG of few colours, atomically."""
    from PIL import Image

    written = io.BytesIO()
    figure.savefig(written, format="png")
    picture = Image.open(written).convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    with replacing(path) as temporary:
        picture.save(temporary, "PNG", optimize=True)


def _bar(figure, panels, caption: Caption, limit: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = caption.colours(limit)
    scale = ScalarMappable(Normalize(colours["vmin"], colours["vmax"]), colours["cmap"])
    bar = figure.colorbar(scale, ax=panels, shrink=0.8, fraction=0.04, aspect=18)
    bar.set_label(caption.unit, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(caption.title, fontsize=11)


def _across(axis: int) -> tuple[int, int]:
    """The axes to the right and upwards in a plane."""
    return tuple(other for other in PLANES if other != axis)


def _plane(volume: np.ndarray, affine: np.ndarray, axis: int, at: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """The plane through a place in mm, rows upwards, and its extent in mm; zeros where the volume does not reach."""
    place = round((at[axis] - affine[axis, 3]) / affine[axis, axis])
    right, up = _across(axis)
    size = [volume.shape[up], volume.shape[right]]
    plane = np.take(volume, place, axis).T if 0 <= place < volume.shape[axis] else np.zeros(size, volume.dtype)
    return plane, [end for across in (right, up) for end in _ends(volume, affine, across)]


def _ends(volume: np.ndarray, affine: np.ndarray, axis: int) -> list[float]:
    step, start = affine[axis, axis], affine[axis, 3]
    return [start - step / 2, start + step * (volume.shape[axis] - 0.5)]


def _limits(ground: Volume, axis: int) -> list[float]:
    """What of an axis the ground fills, with 4 mm or voxels around it."""
    volume, affine = ground
    others = tuple(other for other in PLANES if other != axis)
    filled = np.flatnonzero((volume > _window(volume)[0]).any(axis=others))
    if not len(filled):
        return _ends(volume, affine, axis)
    return [affine[axis, 3] + affine[axis, axis] * filled[0] - 4, affine[axis, 3] + affine[axis, axis] * filled[-1] + 4]


def _window(ground: np.ndarray) -> tuple[float, float]:
    """What is drawn as nothing and as white: 0 of images that are 0 outside of the brain, and the 99.5th percentile."""
    low = 0.0 if ground.min() >= 0 else float(np.percentile(ground, 1))
    return low, max(float(np.percentile(ground, 99.5)), low + 1e-6)
