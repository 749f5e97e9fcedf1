"""The steps from one scan to one array of the store."""

from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from tlimb.preprocess.bias import correct_bias_field
from tlimb.preprocess.quality import mask_overlap, signal_to_noise, warnings_about
from tlimb.preprocess.recipe import Recipe
from tlimb.preprocess.register import register
from tlimb.preprocess.template import Template, load_template
from tlimb.preprocess.volume import ScanError, Volume, read_volume, resample, shrink

LEAST_VOXELS = 100  # of the brain mask inside of the image
LEAST_EXTENT = 50.0  # mm along each axis


def template_for(recipe: Recipe) -> Template:
    """The template on the grid of a recipe's store."""
    return load_template(float(recipe.spacing), None if recipe.shape is None else tuple(recipe.shape))


def preprocess_scan(image: Path, mask: Path | None, recipe: Recipe, template: Template) -> tuple[np.ndarray, dict]:
    """A scan as an array of the store, and its quality.

    Returns (X, Y, Z) float16 on the template's grid, RAS, z-scored in the brain mask and 0 outside of it, and the
    numbers mask_overlap, metric, snr, displacement with the text `warnings`. The numbers are the same whatever the
    number of threads. Raises ScanError with the reason where the scan is of no use.
    """
    with threadpool_limits(1):
        scan, warnings = read_volume(image)
        _require_extent(scan)
        scan = Volume(scan.data - min(scan.data.min(), 0), scan.affine)
        if recipe.bias_field:
            scan = correct_bias_field(scan)
        found = register(scan, template, recipe.registration)
        registered = resample(shrink(scan, recipe.spacing / 2), found.world, template.affine, template.shape)
        inside = np.isfinite(registered)
        registered = np.where(inside, registered, np.float32(0))
        brain = _brain(mask, recipe.mask, found.world, template) & inside
        array, mean = _zscored(registered, brain)
        overlap = mask_overlap(registered, template)
        coverage = (inside & template.mask).sum() / template.mask.sum()
        warnings += warnings_about(found, overlap, coverage, recipe.registration != "none")
    quality = {
        "mask_overlap": overlap,
        "metric": found.metric,
        "snr": signal_to_noise(scan, mean),
        "displacement": found.displacement,
        "warnings": "; ".join(warnings),
    }
    return array, quality


def _require_extent(scan: Volume) -> None:
    extent = scan.spacing * scan.data.shape
    if extent.min() < LEAST_EXTENT:
        text = " x ".join(f"{length:.0f}" for length in extent)
        raise ScanError(f"the field of view of {text} mm is too small for a brain")


def _brain(mask: Path | None, kind: str, world: np.ndarray, template: Template) -> np.ndarray:
    if kind == "template":
        return template.mask
    if kind == "none":
        return np.ones(template.shape, bool)
    if mask is None:
        raise ScanError("the recipe asks for the scan's own mask, and the samplesheet gives none")
    try:
        own, _ = read_volume(mask)
    except ScanError as error:
        raise ScanError(f"mask {error}") from None
    return np.nan_to_num(resample(own, world, template.affine, template.shape, nearest=True)) > 0


def _zscored(registered: np.ndarray, brain: np.ndarray) -> tuple[np.ndarray, float]:
    """The array (float16) with mean 0 and standard deviation 1 over `brain`, 0 elsewhere, and the mean before."""
    values = registered[brain]
    if len(values) < LEAST_VOXELS:
        raise ScanError(f"only {len(values)} voxels of the brain mask lie inside of the image")
    mean, spread = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if not spread > 0:
        raise ScanError("every voxel in the brain mask has the same value")
    return np.where(brain, (registered - mean) / spread, 0).astype(np.float16), mean
