"""A small picture of a registered head with the template's contour, by which a person sees whether it fits."""

import io

import numpy as np
from PIL import Image

from tlimb.preprocess.template import Template

PIXELS = 96  # along the longest axis, at most
SLICES = (0.40, 0.62)  # of each axis, from left, behind and below
LEVELS = 10  # grey levels: more show noise and cost bytes
WHITE = 99.5  # percentile shown as the brightest grey
BLACK = 0.1  # of that: what is darker shows as black


def montage(registered: np.ndarray, template: Template | None) -> bytes:
    """A PNG, 8 bits of grey, of two axial, coronal and sagittal slices (a column each), the brain's border in white.

    registered: (X, Y, Z) in RAS on the template's grid, before masking. The person's left is on the picture's left, and
    faces look up or to the right. A slice is the mean of two planes. Without a template no border is drawn.
    """
    step = max(1, -(-max(registered.shape) // PIXELS))
    window = _window(registered)
    tiles = []
    for axis in (2, 1, 0):
        for share in SLICES:
            place = int(share * registered.shape[axis])
            tile = _plane(registered, axis, place, step)
            if place + 1 < registered.shape[axis]:
                tile = (tile + _plane(registered, axis, place + 1, step)) / 2
            tile = _greys(tile, *window)
            if template is not None:
                tile[_outline(_plane(template.mask, axis, place, step))] = 255
            tiles.append(np.rot90(tile))
    return _png(_arranged(tiles))


def _plane(volume: np.ndarray, axis: int, place: int, step: int) -> np.ndarray:
    """Every `step`-th pixel of one plane."""
    index = [slice(None, None, step)] * 3
    index[axis] = place
    return volume[tuple(index)]


def _window(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values[::4, ::4, ::4], (1, WHITE))
    return low + BLACK * (high - low), high


def _greys(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The window of values as uint8 in LEVELS steps that end below white, which is the border's."""
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return (np.round(share * (LEVELS - 1)) * (235 / (LEVELS - 1))).astype(np.uint8)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a 2D mask that have a neighbour outside of it."""
    wide = np.pad(mask, 1)
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask & ~inner


def _arranged(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles one below the other in columns of two, each centred in its column."""
    height = max(tile.shape[0] for tile in tiles)
    columns = []
    for upper, lower in zip(tiles[::2], tiles[1::2]):
        space = height - upper.shape[0]
        edges = ((space // 2, space - space // 2), (0, 0))
        columns.append(np.vstack([np.pad(upper, edges), np.pad(lower, edges)]))
    return np.hstack(columns)


def _png(picture: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "PNG")
    return written.getvalue()
