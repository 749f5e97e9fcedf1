"""How often each rule of quality control is right, on scans that were harmed on purpose and on scans that were not.

The demo's persons, of all ages and sites, are scanned anew at about 2 mm; each scan is harmed in one way, written to
disk and preprocessed as the pipeline does. The first table gives, for each kind of harm, how many were named by the
rule that is there for it, and how many were flagged by any warning; the second what was said of scans with no harm.
Run: python benchmarks/quality.py [--scans 20] [--clean 60] [--seed 1]
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import click
import nibabel as nib
import numpy as np

from tlimb.config import Recipe
from tlimb.preprocess import scan as steps
from tlimb.preprocess.reference import reference
from tlimb.seeds import seed_for

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
import harmed  # noqa: E402

RULES = {
    "doubtful": "registration doubtful",
    "voxel sizes": "voxel sizes may be wrong",
    "axes": "axes may be wrong",
    "overlap": "overlaps little",
    "cropped": "outside of the image or is blank",
    "lesioned": "a lesion?",
    "contrast": "not the contrast of",
    "defaced": "defaced",
    "stripped": "skull-stripped",
}
HEADERS = {
    "stretched": ("voxel sizes along one axis times 0.65 or 1.5", "voxel sizes"),
    "large": ("all voxel sizes times 1.6", "voxel sizes"),
    "small": ("all voxel sizes times 0.6", "voxel sizes"),
    "turned": ("axes named in a wrong order", "axes"),
    "upside down": ("one or two axes named backwards, not left and right", "axes"),
}


@click.command(help=__doc__)
@click.option("--scans", default=20, show_default=True, type=click.IntRange(1), help="For each kind of harm.")
@click.option("--clean", default=60, show_default=True, type=click.IntRange(1), help="Scans without harm.")
@click.option("--seed", default=1, show_default=True)
def main(scans: int, clean: int, seed: int):
    reference()
    print("| harm | rule | named | flagged |\n|---|---|---|---|")
    for name, rule, contrast, harm in _harms():
        found = [_said(seed, name, number, contrast, harm) for number in range(scans)]
        named = sum(rule in said for said in found)
        flagged = sum(bool(said - {"defaced", "stripped"}) for said in found)
        print(f"| {name} | {rule} | {named} of {scans} | {flagged} of {scans} |", flush=True)
    print("\n| no harm | n | said |\n|---|---|---|")
    for name, registration, contrast in _sound():
        number = clean if name == "T1w" else scans
        found = [_said(seed, name, one, contrast, None, registration, contrast or "T1w") for one in range(number)]
        counts = Counter(rule for said in found for rule in said)
        print(f"| {name} | {number} | {_listed(counts)} |", flush=True)
    print(f"\nseed {seed}; the quality numbers took {1000 * np.median(TIMES):.0f} ms a scan (median, CPU time)")


TIMES = []


def _harms():
    """(name, rule that should speak, contrast, harm(image, pose, rng) or None) for each kind of harm."""
    yield "face removed", "defaced", None, harmed.defaced
    yield "skull stripped", "stripped", None, harmed.stripped
    for share in (0.05, 0.1, 0.2):
        yield f"{share:.0%} of the brain cut off", "cropped", None, _cropped(share, False)
        yield f"{share:.0%} of the brain set to 0", "cropped", None, _cropped(share, True)
    for diameter in (16, 20, 25, 30, 40):
        yield f"lesion of {diameter} mm", "lesioned", None, _lesioned(diameter)
    for kind, (name, rule) in HEADERS.items():
        yield name, rule, None, _with_wrong_header(kind)
    for contrast in harmed.CONTRASTS:
        yield f"{contrast} that is called T1w", "contrast", contrast, None


def _sound():
    """(name, kind of registration, contrast) of scans that deserve no word."""
    yield "T1w", "affine", None
    for registration in ("similarity", "rigid"):
        yield f"T1w, {registration} registration", registration, None
    for contrast in harmed.CONTRASTS:
        yield f"{contrast}, called so", "affine", contrast


def _cropped(share, padded):
    return lambda image, pose, rng: harmed.cropped(image, pose, rng, share, padded)


def _lesioned(diameter):
    return lambda image, pose, rng: harmed.lesioned(image, pose, rng, diameter)


def _with_wrong_header(kind):
    return lambda image, pose, rng: harmed.with_wrong_header(image, pose, rng, kind)


def _said(seed, name, number, contrast, harm, registration="affine", modality="T1w") -> set[str]:
    """Names of the rules that spoke of one scan; `failed` where it could not be preprocessed."""
    rng = np.random.default_rng(seed_for(seed, "quality", name, number))
    image, pose = harmed.demo_scan(int(rng.integers(harmed.PERSONS)), seed, contrast)
    recipe = Recipe(registration=registration)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii"
        nib.save(harm(image, pose, rng) if harm else image, path)
        try:
            with mock.patch.object(steps, "assess", _timed(steps.assess)):
                _, quality, _ = steps.preprocess_scan(path, None, recipe, steps.template_for(recipe), modality)
        except steps.ScanError:
            return {"failed"}
    texts = quality["warnings"] + "; " + quality["notes"]
    return {rule for rule, text in RULES.items() if text in texts}


def _timed(work):
    def timed(*arguments):
        start = time.process_time()
        result = work(*arguments)
        TIMES.append(time.process_time() - start)
        return result

    return timed


def _listed(counts: Counter) -> str:
    return ", ".join(f"{rule} {count}" for rule, count in counts.most_common()) or "nothing"


if __name__ == "__main__":
    main()
