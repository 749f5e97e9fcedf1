"""The commands `tlimb weights` and `tlimb export`."""

import json
import os
import sys
from pathlib import Path

import click

from tlimb.command import told_plainly
from tlimb.errors import InputError, Problem, nearest
from tlimb.weights.kinds import file_problems, tlimb_kind
from tlimb.weights.names import is_map_file, read_pairs
from tlimb.weights.ready_maps import READY_MAPS


@click.command("export")
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--format", "form", required=True, type=click.Choice(["onnx", "torchscript", "torch-export"]))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@click.option("--trusted", multiple=True, metavar="MODULE", help="Allow classes of this module by import path.")
@told_plainly
def export_command(model: Path, form: str, out: Path, trusted: tuple[str, ...]):
    """Write the trained MODEL (a folder with model.json) in a format of other programs, checked to give the same.

    OUT.json, beside it, says how images must be prepared and what the outputs mean.
    """
    from tlimb.weights.export import export

    sys.path.append(os.getcwd())
    if tlimb_kind(model) != "model":
        raise InputError([Problem(str(model), "is no folder of a trained model: it has no model.json")])
    difference = export(model, form, out, trusted)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB; outputs differ by {difference:.1g} at most")


@click.command("weights")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--architecture", metavar="NAME|JSON", help="An encoder to try the weights on, as a sweep names it.")
@click.option("--shape", metavar="C,X,Y,Z", help="Shape of its images, channels first.")
@click.option("--part", help="The submodule of the encoder that the weights are for.")
@click.option("--map", "written", help="A ready map or a JSON file; recognised by itself where left out.")
@click.option("--trusted", multiple=True, metavar="MODULE", help="Allow classes of this module by import path.")
@told_plainly
def weights_command(file: Path, architecture: str, shape: str, part: str, written: str, trusted: tuple[str, ...]):
    """Show what is in a FILE of weights, or a folder, and how an encoder would be filled by it. Loads nothing."""
    problems = file_problems(file, {"path": str(file), "map": written}, "weights")
    if problems:
        raise InputError(problems)
    from tlimb.weights.describe import described, tried

    sys.path.append(os.getcwd())
    tensors, lines = described(file)
    if architecture is not None:
        pairs = read_pairs(written, "--map", Path(written) if is_map_file(written) else None) if written else None
        wanted, sizes = _architecture(architecture), _shape(shape)
        lines += tried(tensors, wanted, sizes, part, pairs, written if written in READY_MAPS else None, trusted)
    click.echo("\n".join(lines))


def _architecture(written: str) -> dict:
    """A class as a sweep names it, from a bare name or its JSON."""
    if not written.lstrip().startswith("{"):
        return {"class_path": written, "init_args": {}}
    try:
        found = {"init_args": {}} | json.loads(written)
    except json.JSONDecodeError as error:
        raise InputError([Problem("--architecture", f"not valid JSON: {error}")]) from None
    keys = ("class_path", "init_args")
    problems = [Problem(f"--architecture.{key}", "no such key", nearest(key, keys)) for key in found if key not in keys]
    if not isinstance(found.get("class_path"), str):
        message = "missing" if "class_path" not in found else f"found {found['class_path']!r}"
        problems.append(Problem("--architecture.class_path", f"{message}; expected a class's name", 'such as "ResNet"'))
    if not isinstance(found["init_args"], dict):
        problems.append(Problem("--architecture.init_args", f"expected an object, found {found['init_args']!r}"))
    if problems:
        raise InputError(problems)
    return found


def _shape(written: str | None) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in (written or "").split(","))
    except ValueError:
        shape = ()
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise InputError([Problem("--shape", f"expected whole numbers such as 1,80,96,80, found {written!r}")])
    return shape
