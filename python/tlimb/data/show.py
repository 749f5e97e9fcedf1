"""A picture of scans as a data module arranges them and augmentation changes them."""

import json
from collections.abc import Sequence

import click
import numpy as np

from tlimb import registry
from tlimb.command import told_plainly
from tlimb.errors import InputError, Problem

CHANNELS = 6
"""At most so many channels of a 2D image are shown, evenly chosen."""


def show_samples(images: np.ndarray, titles: Sequence[str]):
    """A matplotlib figure with a row a scan, all on one grey scale (1st to 99th percentile of what is not 0).

    images: (n, C, x, y, z) shown by their three central slices (first channel), (n, C, h, w) by their channels, or
    series (n, C, t) as a carpet of regions by time points.
    """
    from matplotlib.figure import Figure

    rows = [_pictures(image) for image in np.asarray(images, dtype="float32")]
    known = images[images != 0]
    low, high = np.percentile(known, [1, 99]) if len(known) else (0, 1)
    low, high = min(low, 0), max(high, low + 1e-6)
    width = 8.0 if images.ndim == 3 else 2.2 * len(rows[0])
    figure = Figure(figsize=(max(width, 3.5), 2.4 * len(rows)), dpi=110, layout="constrained", facecolor="white")
    for number, (parts, title) in enumerate(zip(rows, titles)):
        for column, (picture, name) in enumerate(parts):
            axes = figure.add_subplot(len(rows), len(parts), number * len(parts) + column + 1)
            aspect = "auto" if images.ndim == 3 else "equal"
            axes.imshow(picture.T, "gray", vmin=low, vmax=high, origin="lower", aspect=aspect, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(name, fontsize=7)
            if column == 0:
                axes.set_title(title, fontsize=8, loc="left")
    return figure


def _pictures(image: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """What is shown of one image (C, ...): 2D arrays, first axis to the right and second upwards, with their names."""
    if image.ndim == 4:
        x, y, z = (size // 2 for size in image.shape[1:])
        volume = image[0]
        return [(volume[:, :, z], f"axial {z}"), (volume[:, y], f"coronal {y}"), (volume[x], f"sagittal {x}")]
    if image.ndim == 2:
        return [(image.T, f"{image.shape[0]} regions, {image.shape[1]} time points")]
    chosen = np.unique(np.linspace(0, len(image) - 1, CHANNELS).round().astype(int))
    return [(image[channel], f"channel {channel}") for channel in chosen]


def samples(store, scans: Sequence[str], data: dict, seed: int = 0, trusted=()) -> np.ndarray:
    """Scans of a Store as `data`'s module arranges and presents them, augmented if it says so: (n, C, ...).

    Its normaliser, which is fitted in training, takes no part.
    """
    import torch

    from tlimb.data.images import Images
    from tlimb.data.view import build_module, build_view

    images = Images(store, build_module(data["module"], trusted), scans)
    view = build_view(images, data, trusted, training=True)
    training = bool(data["augment"])
    torch.manual_seed(seed)
    batch = view.before((images(scans), []), training)
    return view.after(batch, training)[0].numpy()


@click.command("show")
@click.argument("store", type=click.Path(exists=True, file_okay=False))
@click.option("--scans", multiple=True, metavar="SCAN_ID", help="A scan; may be repeated. Default: the first ones.")
@click.option(
    "--count", default=4, show_default=True, type=click.IntRange(1, 32), help="How many scans, where none is named."
)
@click.option(
    "--module",
    default="BaseDataModule",
    show_default=True,
    metavar="JSON",
    help="Data module: its name, or an object with class_path and init_args.",
)
@click.option("--augment", default="[]", metavar="JSON", help="List of augmentations, each named like the module.")
@click.option("--seed", default=0, show_default=True, help="Seed of the augmentations.")
@click.option("--trusted", multiple=True, metavar="MODULE", help="Allow classes of this module by import path.")
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="The picture to write (.png, .pdf, .svg).")
@told_plainly
def show_command(store, scans, count, module, augment, seed, trusted, out):
    """Write a picture of scans in STORE (a folder of shards) as a data module arranges them.

    Augmentation is shown where it is named; normalisation, which is fitted in training, and hooks are not. Masks are
    the recipe's: outside of them STORE holds 0.
    """
    from tlimb.store import Store

    data = _data(module, augment, trusted)
    opened = Store(store)
    fine = opened.index.loc[opened.index["status"] == "ok", "scan_id"].tolist()
    shown = list(scans) or fine[:count]
    if not shown:
        raise InputError([Problem(str(store), "holds no scan that passed preprocessing")])
    show_samples(samples(opened, shown, data, seed, trusted), shown).savefig(out)


def _data(module: str, augment: str, trusted) -> dict:
    """The part of a stage that says how scans look. Raises InputError for what cannot be read or is no such class."""
    from tlimb.config import Data
    from tlimb.parse import parse

    listed = _read(augment, "--augment") if augment.lstrip().startswith("[") else [_read(augment, "--augment")]
    named = {"module": _spec(_read(module, "--module")), "augment": [_spec(item) for item in listed]}
    data = parse(Data, {"labelled": {"cohort": ["any"]}, **named}, "show").model_dump()
    checks = [("module", data["module"], "--module")]
    checks += [("augment", item, f"--augment[{number}]") for number, item in enumerate(data["augment"])]
    problems = []
    for kind, spec, where in checks:
        problems += registry.check(kind, spec["class_path"], spec["init_args"], where, trusted)
    if problems:
        raise InputError(problems)
    return data


def _read(text: str, where: str):
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError([Problem(where, f"is no JSON: {error}")]) from None


def _spec(value):
    return {"class_path": value} if isinstance(value, str) else value
