"""Training states kept between tasks, so that nothing finished is trained twice and nothing unfinished from the start.

An accelerator only: without a folder to keep them in, results are the same.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tlimb.files import digest, replacing

SECONDS = 30.0
"""Least time between two states written of one training."""


class Kept:
    """What is kept of one training: its result once finished, till then the state after its last epochs.

    folder: where states are kept, or None. identity: id of the trial or pretraining. key: all else that its numbers
    depend on, as a JSON value. Several tasks may hold the same one: every write is a rename of a whole file or folder.
    """

    def __init__(self, folder: Path | str | None, identity: str, key: dict, seconds: float = SECONDS):
        self._folder = Path(folder) / f"{identity}-{digest(key)}" if folder else None
        self._seconds, self._written = seconds, time.monotonic()
        if self._folder is not None and not _writable(self._folder):
            print(f"no training states are kept: {folder} cannot be written", file=sys.stderr)
            self._folder = None

    def finished(self) -> Path | None:
        """The folder of the finished result, None where there is none."""
        result = self._folder and self._folder / "result"
        return result if result and result.is_dir() else None

    def keep(self, result: Path) -> None:
        """Keep a copy of a finished result's folder and drop the states before it."""
        if self._folder is None or self.finished():
            return
        copy = Path(tempfile.mkdtemp(prefix=".result.", dir=self._folder))
        try:
            shutil.copytree(result, copy, copy_function=link_or_copy, dirs_exist_ok=True)
            os.rename(copy, self._folder / "result")
        except OSError as error:
            shutil.rmtree(copy, ignore_errors=True)
            if not self.finished():
                print(f"the result of {result.name} is not kept for later: {error}", file=sys.stderr)
        (self._folder / "training.safetensors").unlink(missing_ok=True)

    def due(self) -> bool:
        """Whether a state should be written now."""
        return self._folder is not None and time.monotonic() - self._written >= self._seconds

    def save(self, state: dict) -> None:
        """Write the state of an unfinished training; one that cannot be written is reported and costs no
        more than that."""
        try:
            write_state(self._folder / "training.safetensors", state)
        except (OSError, TypeError) as error:
            print(f"the training state is not kept: {error}", file=sys.stderr)
        self._written = time.monotonic()

    def load(self) -> dict | None:
        """The last state written, None where there is none that can be read."""
        path = self._folder and self._folder / "training.safetensors"
        if not path or not path.exists():
            return None
        try:
            return read_state(path)
        except (OSError, SafetensorError, ValueError) as error:
            print(f"a damaged training state is passed over: {path}: {error}", file=sys.stderr)
            return None


def link_or_copy(source, target) -> None:
    """A second name for a file that is never changed in place, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_state(path, state: dict) -> None:
    """Write nested dicts, lists and tuples of tensors and JSON scalars to one safetensors file, atomically."""
    tensors: dict[str, Tensor] = {}
    outline = _outline(state, tensors)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"state": json.dumps(outline)})


def read_state(path) -> dict:
    """What `write_state` wrote, with the same types; tensors are on the CPU."""
    with safe_open(path, framework="pt") as file:
        outline = json.loads((file.metadata() or {}).get("state", ""))
        return _filled(outline, file)


def peek(path, key: str):
    """One entry, without tensors, of a state that `write_state` wrote; no tensor is read. Raises ValueError for a state
    that has no such entry."""
    with safe_open(path, framework="pt") as file:
        outline = json.loads((file.metadata() or {}).get("state", ""))
    found = dict(map(tuple, outline["dict"]))
    if key not in found:
        raise ValueError(f"no '{key}' in it")
    return _filled(found[key], None)


def _outline(value, tensors: dict[str, Tensor]):
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _outline(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_outline(item, tensors) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"a training state cannot hold a {type(value).__name__}")


def _filled(outline: dict, file):
    ((kind, content),) = outline.items()
    if kind == "tensor":
        return file.get_tensor(content)
    if kind == "dict":
        return {key: _filled(item, file) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_filled(item, file) for item in content]
        return items if kind == "list" else tuple(items)
    return content


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
