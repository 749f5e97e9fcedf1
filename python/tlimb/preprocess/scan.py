"""The steps from one scan to one array of the store."""

import hashlib
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from tlimb.preprocess.bias import correct_bias_field
from tlimb.preprocess.grid import centred
from tlimb.preprocess.intensity import require_contrast, rescaled
from tlimb.preprocess.mask import learned_mask, on_grid, own_mask
from tlimb.preprocess.montage import montage
from tlimb.preprocess.quality import assess
from tlimb.preprocess.recipe import Recipe
from tlimb.preprocess.register import Registration, register
from tlimb.preprocess.template import Template, load_template
from tlimb.preprocess.volume import ScanError, Volume, content_digest, lifted, read_volume, resample, shrink

LEAST_EXTENT = 50.0  # mm along each axis
SPACING_TOLERANCE = 0.02  # share by which prepared voxels may differ from the recipe's


def template_for(recipe: Recipe) -> Template | None:
    """The template on the grid of a recipe's store; None where scans keep their own grids."""
    if recipe.resampling == "none":
        return None
    return load_template(float(recipe.spacing), None if recipe.shape is None else tuple(recipe.shape))


def preprocess_scan(
    image: Path, mask: Path | None, recipe: Recipe, template: Template | None, modality: str = "T1w"
) -> tuple[np.ndarray, dict, bytes]:
    """A scan as an array of the store, what is known of it, and its picture.

    Returns (X, Y, Z) float16, 0 outside of the brain mask; the digest of its files, its content's, and the numbers of
    `tlimb.preprocess.quality.COLUMNS` with the text `warnings`; and a montage (PNG).
    template: from `template_for`. The numbers are the same whatever the number of threads.
    Raises ScanError with the reason where the scan is of no use.
    """
    with threadpool_limits(1):
        if recipe.resampling == "none":
            return _prepared(image, mask, recipe, modality)
        return _registered(image, mask, recipe, template, modality)


def _registered(image, mask, recipe, template: Template, modality: str) -> tuple[np.ndarray, dict, bytes]:
    digest = hashlib.sha256()
    read, warnings = read_volume(image, digest)
    content = content_digest(read)
    _require_extent(read)
    scan, floor = lifted(read)
    if recipe.bias_field:
        scan = correct_bias_field(scan)
    found = register(scan, template, recipe.registration)
    registered, inside = _resampled(scan, found, recipe, template)
    brain, doubts = _brain(mask, recipe.mask, scan, found.world, template, digest)
    brain = brain & inside
    require_contrast(registered, brain)
    quality = assess(scan, found, registered, inside, brain, template, recipe, modality)
    array, cut = rescaled(registered + np.float32(floor), brain, recipe)
    facts = _facts(digest, content, quality, [*warnings, *doubts, *quality["warnings"], *cut])
    return array, facts, montage(registered, template)


def _prepared(image, mask, recipe, modality: str) -> tuple[np.ndarray, dict, bytes]:
    """A scan that keeps its own voxels: checked, cropped or padded, and only what else the recipe asks for."""
    digest = hashlib.sha256()
    scan, warnings = read_volume(image, digest, recipe.orientation)
    content = content_digest(scan)
    _require_spacing(scan, float(recipe.spacing))
    if recipe.bias_field:
        positive, floor = lifted(scan)
        scan = Volume(correct_bias_field(positive).data + np.float32(floor), scan.affine)
    grid, inside = centred(scan, recipe.shape)
    brain, doubts = _brain(mask, recipe.mask, scan, np.eye(4), grid, digest)
    brain = brain & inside
    require_contrast(grid.data, brain)
    array, cut = rescaled(grid.data, brain, recipe)
    quality = assess(scan, None, grid.data, inside, brain, None, recipe, modality)
    facts = _facts(digest, content, quality, [*warnings, *doubts, *quality["warnings"], *cut])
    return array, facts, montage(grid.data, None)


def _facts(digest, content: str, quality: dict, warnings: list[str]) -> dict:
    return {"digest": digest.hexdigest()[:16], "content": content} | quality | {"warnings": "; ".join(warnings)}


def _require_extent(scan: Volume) -> None:
    extent = scan.spacing * scan.data.shape
    if extent.min() < LEAST_EXTENT:
        text = " x ".join(f"{length:.0f}" for length in extent)
        raise ScanError(f"the field of view of {text} mm is too small for a brain")


def _require_spacing(scan: Volume, spacing: float) -> None:
    if np.abs(scan.spacing / spacing - 1).max() > SPACING_TOLERANCE:
        text = " x ".join(f"{size:.3g}" for size in scan.spacing)
        raise ScanError(f"voxels of {text} mm; without resampling they must be those of the recipe, {spacing:g} mm")


def _resampled(scan: Volume, found: Registration, recipe, template: Template) -> tuple[np.ndarray, np.ndarray]:
    """The scan on the template's grid, float32, 0 outside of its field of view, and which voxels lie inside of that."""
    source = scan if recipe.resampling == "nearest" else shrink(scan, recipe.spacing / 2)
    registered = resample(source, found.world, template.affine, template.shape, recipe.resampling)
    inside = np.isfinite(registered)
    return np.where(inside, registered, np.float32(0)), inside


def _brain(mask, kind: str, scan: Volume, world: np.ndarray, grid, digest) -> tuple[np.ndarray, list[str]]:
    """The brain mask on a grid (the template, or a prepared scan), and what is odd about the one that was given."""
    shape = grid.mask.shape if isinstance(grid, Template) else grid.data.shape
    if kind == "template":
        return grid.mask, []
    if kind == "none":
        return np.ones(shape, bool), []
    found, doubts = own_mask(mask, scan, digest) if kind == "own" else (learned_mask(scan), [])
    return on_grid(found, world, grid.affine, shape), doubts
