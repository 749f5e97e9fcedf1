"""Functions that a user names in the sweep to see each batch, by import path."""

import inspect
from collections.abc import Callable
from importlib import import_module

from tlimb.errors import InputError, Problem
from tlimb.registry import TRUSTED

Hook = Callable[[tuple, bool], tuple]


def load_hook(path: str | None, where: str, trusted=()) -> Hook | None:
    """The function at an import path as hook(batch, training), or None; one that takes the batch alone gets it alone.

    where: the JSON path to report. Raises InputError for a module that is not trusted, a name that is not there and a
    function that takes neither one argument nor two.
    """
    if path is None:
        return None
    module, _, name = path.rpartition(".")
    root = path.split(".")[0]
    if not module:
        raise InputError([Problem(where, f"expected the import path of a function, found '{path}'")])
    if root not in (*TRUSTED, *trusted):
        hint = f"name it in trusted_modules to allow {path}"
        raise InputError([Problem(where, f"module '{root}' is not trusted", hint)])
    try:
        hook = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError([Problem(where, f"cannot be imported: {error}")]) from None
    return _with_training(hook, path, where)


def _with_training(hook: Callable, path: str, where: str) -> Hook:
    for arguments, called in (((None, False), hook), ((None,), lambda batch, training: hook(batch))):
        try:
            inspect.signature(hook).bind(*arguments)
        except TypeError:
            continue
        return called
    raise InputError([Problem(where, f"{path} takes neither (batch) nor (batch, training)")])
