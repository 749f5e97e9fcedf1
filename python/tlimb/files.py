"""Atomic writes and canonical JSON: a file is there whole or not at all."""

import hashlib
import json
import math
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from tlimb.errors import InputError, Problem

MADE_BY = {"made_by": "tlimb"}
"""The mark in the header of every .safetensors file of weights that tlimb writes."""


@contextmanager
def replacing(path, synced: bool = True):
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, on failure removed.

    synced: false for many small files that are made again after a crash of the machine; each sync takes milliseconds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if synced:
            with open(temporary, "rb+") as written:
                os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path, text: str, synced: bool = True) -> None:
    """Write `text` in UTF-8, atomically."""
    with replacing(path, synced) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity become null."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path, rows) -> None:
    """Write one canonical JSON object a line, atomically."""
    write_text(path, "".join(canonical_json(row) + "\n" for row in rows))


def write_parquet(path, frame) -> None:
    """Write a DataFrame without its index as parquet, atomically; the same frame gives the same bytes."""
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


def write_csv(path, frame) -> None:
    """Write a DataFrame without its index as CSV, atomically; floats keep every digit."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)


def read_json(path):
    """The JSON document at `path`; raises InputError with line and column where it does not parse."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError([Problem(str(path), "file not found")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError([Problem(str(path), f"cannot be read: {error}")]) from None
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}, column {error.colno}"
        raise InputError([Problem(where, f"not valid JSON: {error.msg}")]) from None


def read_jsonl(path) -> list:
    """The objects of a file with one JSON document a line."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def canonical_json(value) -> str:
    """JSON with sorted keys and no spaces; equal values give equal text (1.0 and 1 differ, NaN is refused)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value, length: int = 12) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def file_digest(path, length: int = 16) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:length]


def _finite(value):
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
