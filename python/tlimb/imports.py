"""Which files of the library each process imports: what `-resume` looks at to see that its code changed.

Nextflow does not see a change of the modules behind a command of bin/. ``python -m tlimb.imports`` follows the imports
of each command through the library, without running anything, and writes assets/imports.json; the pipeline passes the
digest of the files listed there to the process.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from tlimb.files import write_json

PACKAGE = Path(__file__).parent
ROOT = PACKAGE.parents[1]
COMMANDS = {
    "COHORT": "tlimb_cohort.py",
    "PREPROCESS": "tlimb_preprocess.py",
    "SUGGEST": "tlimb_suggest.py",
    "PRETRAIN": "tlimb_pretrain.py",
    "PROBE": "tlimb_probe.py",
    "FINETUNE": "tlimb_finetune.py",
    "EVALUATE": "tlimb_evaluate.py",
    "SELECT": "tlimb_select.py",
    "EXPLAIN": "tlimb_explain.py",
    "RANK": "tlimb_rank.py",
}


def imported_files(script: Path, package: Path = PACKAGE) -> list[str]:
    """Files of `tlimb`, in the folder `package`, that `script` imports, directly or not, as sorted relative paths.

    Imports inside functions count. So do strings that name a module or class of the library in full, for that is how
    classes named in a sweep are found.
    """
    found: set[Path] = set()
    waiting = [(script, "")]
    while waiting:
        file, name = waiting.pop()
        for imported in _modules(ast.parse(file.read_text(encoding="utf-8")), name):
            new = _files(imported, package) - found
            found |= new
            waiting += [(path, _module_name(path, package)) for path in new]
    return sorted(path.relative_to(package).as_posix() for path in found)


def _modules(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that a module's code may refer to; the last parts may be names within a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -node.level + 1 or None] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("tlimb."):
            yield node.value


def _files(name: str, package: Path) -> set[Path]:
    """The files that importing a dotted name reads: the packages on the way and the module, as far as they exist."""
    parts = name.split(".")
    if parts[0] != "tlimb":
        return set()
    files, folder = {package / "__init__.py"}, package
    for part in parts[1:]:
        if (folder / f"{part}.py").is_file():
            files.add(folder / f"{part}.py")
            break
        folder = folder / part
        files |= {folder / "__init__.py"} if (folder / "__init__.py").is_file() else set()
    return files


def _module_name(path: Path, package: Path) -> str:
    """The name that relative imports of a file count from: its package, or itself for an __init__.py."""
    parts = ["tlimb", *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1])


def all_imports(root: Path = ROOT) -> dict[str, list[str]]:
    """Process -> its command and the library files that this imports, as paths from the root of the repository."""
    return {
        process: [
            f"bin/{script}",
            *(f"python/tlimb/{name}" for name in imported_files(root / "bin" / script, root / "python" / "tlimb")),
        ]
        for process, script in COMMANDS.items()
    }


if __name__ == "__main__":
    write_json(ROOT / "assets" / "imports.json", all_imports())
