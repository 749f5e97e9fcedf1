"""Files that a sweep names for its stages to start from: published weights and the maps of their names."""

from collections.abc import Iterator
from pathlib import Path

from tlimb.files import digest, file_digest


def weights_paths(document) -> list[str]:
    """Every path of weights and of map files in a sweep's JSON document, as written, each once, in their order.

    They stand under a key that ends with `weights` (that of a stage, or a path of the space) or, in the space, under
    one that ends with `weights.path` or `weights.map`. A map that is no path of a .json file is the name of a ready
    one.
    """
    return list(dict.fromkeys(_paths(document)))


def _paths(node) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _paths(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            listed = value.get("variants", value) if isinstance(value, dict) else value
            values = listed if isinstance(listed, list) else [listed]
            if key.endswith("weights"):
                yield from (text for one in values if isinstance(one, dict) for text in _of_weights(one))
            elif key.endswith(("weights.path", "weights.map")):
                yield from (text for one in values for text in _of_weights({key.rpartition(".")[2]: one}))
            yield from _paths(value)


def _of_weights(weights: dict) -> Iterator[str]:
    for key in ("path", "map"):
        named = weights.get(key)
        for name in named.get("variants", []) if isinstance(named, dict) else [named]:
            if isinstance(name, str) and (key == "path" or name.endswith(".json")):
                yield name


def content_digest(path: Path) -> str:
    """16 hexadecimal digits of the content of a file, or of the names and contents of all files in a folder."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest([[file.relative_to(path).as_posix(), file_digest(file)] for file in files], 16)
    return digest(file_digest(path), 16)
