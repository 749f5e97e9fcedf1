"""What kind of thing a path of weights is, told by its name and folder alone. Nothing here needs torch."""

from pathlib import Path

from tlimb.errors import InputError, Problem, nearest
from tlimb.files import MADE_BY
from tlimb.weights.names import is_map_file, read_pairs

TORCH = (".pt", ".pth", ".bin", ".ckpt", ".p", ".tar")
SUFFIXES = (*TORCH, ".safetensors", ".zip")
TLIMB = ("encoder", "model")
BUNDLED = "models/model.pt"
"""Where a MONAI bundle keeps its weights."""


def tlimb_kind(path) -> str | None:
    """ "encoder" or "model" for a folder that tlimb wrote, None for anything else."""
    folder = Path(path)
    return next((kind for kind in TLIMB if (folder / f"{kind}.json").is_file()), None)


def file_problems(path: Path, spec: dict, where: str, map_file: Path | None = None) -> list[Problem]:
    """What can be told to be wrong with a stage's `weights` before they are read.

    path: where the weights lie now. spec: {"path", "map", ...}. where: the JSON path of `weights`. map_file: where the
    file of the map lies now, its path as written where None.
    """
    problems = _path_problems(Path(path), spec["path"] or str(path), f"{where}.path")
    if spec.get("map") is not None:
        problems += map_problems(spec["map"], f"{where}.map", map_file)
    return problems


def map_problems(written, where: str, file: Path | None = None) -> list[Problem]:
    """What is wrong with a stage's `map`: an unknown name, no such file, no pattern."""
    try:
        read_pairs(written, where, Path(file or written) if is_map_file(written) else None)
    except InputError as error:
        return error.problems
    return []


def lone_file_problems(path: Path, written: str, where: str) -> list[Problem]:
    """That a file which belongs to a folder of tlimb is given without it, told by the folder that the file lies in (the
    one that a link leads to) or by the mark of a copy."""
    if path.suffix not in (".json", ".safetensors"):
        return []
    lies_in_one = tlimb_kind(path.resolve().parent) is not None
    if not lies_in_one and not (path.suffix == ".safetensors" and _has_mark(path)):
        return []
    what = "lies in a folder of tlimb; name the folder" if lies_in_one else "is tlimb's; name the folder it came in"
    return [Problem(where, f"{written} {what}", "its preprocessing and the persons it has seen are checked then")]


def _has_mark(path: Path) -> bool:
    """Whether a .safetensors file bears the mark; a damaged one is told when it is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return MADE_BY.items() <= (file.metadata() or {}).items()
    except (OSError, SafetensorError):
        return False


def _path_problems(path: Path, written: str, where: str) -> list[Problem]:
    if not path.exists():
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, siblings) if siblings else f"there is no folder {path.parent}"
        return [Problem(where, f"{written} does not exist", hint)]
    if path.is_dir():
        return _folder_problems(path, written, where)
    alone = lone_file_problems(path, written, where)
    if alone:
        return alone
    if path.suffix == ".ts":
        message = f"{written} is a program with weights; expected the weights alone"
        return [Problem(where, message, f"a bundle has them in {BUNDLED}")]
    if path.suffix not in SUFFIXES:
        return [Problem(where, f"{written} ends with '{path.suffix}'; expected one of {', '.join(SUFFIXES)}")]
    return []


def _folder_problems(path: Path, written: str, where: str) -> list[Problem]:
    kind = tlimb_kind(path)
    if kind is None:
        if (path / BUNDLED).is_file():
            return []
        message = f"{written} is neither a folder of tlimb (encoder.json or model.json) nor a MONAI bundle ({BUNDLED})"
        return [Problem(where, message)]
    absent = [name for name in (f"{kind}.safetensors",) if not (path / name).is_file()]
    return [Problem(where, f"{written} has no {name}; its training may have failed") for name in absent]
