"""Tensors out of files that others wrote; nothing but tensors is taken from a pickle."""

import io
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from tlimb.architectures.weights import read_weights
from tlimb.errors import InputError, Problem
from tlimb.weights.kinds import BUNDLED, lone_file_problems

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "teacher", "model", "network", "net")
"""Keys under which checkpoints keep the weights beside the state of their training; the first one there is taken."""

DAMAGED = "no readable weights: it is no file of torch, or a damaged one"


def read_checkpoint(path, written: str | None = None) -> dict[str, Tensor]:
    """The tensors of published weights by their names: a .safetensors file, a file of torch (a state dict, plain or
    within a checkpoint such as Lightning's), a MONAI bundle as a folder or zip.

    written: what messages call it. Raises InputError for a file that holds no tensors or Python objects beside them,
    and for one of a folder of tlimb given alone: whom it was trained on is known to the folder only.
    """
    path, written = Path(path), written or str(path)
    if path.is_dir():
        return read_checkpoint(path / BUNDLED, f"{written}/{BUNDLED}")
    alone = lone_file_problems(path, written, written)
    if alone:
        raise InputError(alone)
    if path.suffix == ".safetensors":
        return read_weights(path)
    content = _load(_unzipped(path, written) if path.suffix == ".zip" else path, written)
    tensors = _tensors(content)
    if not tensors:
        keys = f"the keys {', '.join(map(str, list(content)[:8]))}" if isinstance(content, dict) else ""
        found = keys or type(content).__name__
        raise InputError([Problem(written, f"holds no tensors by name; found {found}")])
    return tensors


def _unzipped(path: Path, written: str) -> io.BytesIO:
    """The weights within a zipped MONAI bundle."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [name for name in archive.namelist() if name == BUNDLED or name.endswith(f"/{BUNDLED}")]
            if len(inside) == 1:
                return io.BytesIO(archive.read(inside[0]))
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError([Problem(written, f"cannot be read: {error}")]) from None
    raise InputError([Problem(written, f"is no MONAI bundle: expected one {BUNDLED} in it, found {len(inside)}")])


def _load(source, written: str):
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*looks like a TorchScript archive", UserWarning)
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError([_pickled(written, str(error))]) from None
    except OSError as error:
        raise InputError([Problem(written, f"cannot be read: {error}")]) from None
    except RuntimeError as error:
        problem = _program(written) if "TorchScript" in str(error) else Problem(written, DAMAGED)
        raise InputError([problem]) from None
    except (EOFError, ValueError, LookupError):
        raise InputError([Problem(written, DAMAGED)]) from None


def _program(written: str) -> Problem:
    """The advice for TorchScript, whatever its name ends with."""
    hint = f"a bundle has them in {BUNDLED}; else `torch.save(torch.jit.load(path).state_dict(), 'weights.pt')`"
    return Problem(written, "is a program with weights; expected the weights alone", hint)


def _pickled(written: str, error: str) -> Problem:
    """The advice for a file with Python objects in it."""
    named = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)|Unsupported operand (\d+)", error)
    found = next(filter(None, named.groups()), "") if named else ""
    if not found or found.isdigit():
        return Problem(written, DAMAGED)
    message = f"holds Python objects ({found}) beside tensors, which are not read, for reading them may run any code"
    hint = (
        "where you trust the file, save its tensors alone, with the packages it was made by: "
        "`whole = torch.load(path, map_location='cpu', weights_only=False); "
        "torch.save(whole['state_dict'], 'weights.pt')`, or `whole.state_dict()` for a whole module"
    )
    return Problem(written, message, hint)


def _tensors(content) -> dict[str, Tensor]:
    """The tensors of a state dict, of that within a checkpoint, or of both halves of one in several dicts."""
    if not isinstance(content, dict):
        return {}
    for key in WRAPPERS:
        if isinstance(content.get(key), dict) and (found := _tensors(content[key])):
            return found
    return dict(_flat(content, ""))


def _flat(content: dict, before: str):
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{before}{key}", value
        elif isinstance(value, dict) and not str(key).startswith(("optimizer", "lr_scheduler")):
            yield from _flat(value, f"{before}{key}.")
