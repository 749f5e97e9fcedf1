"""Functions that a user names in the sweep to see each batch, by import path."""

import inspect
from collections.abc import Callable
from importlib import import_module

from tlimb.errors import InputError, Problem
from tlimb.registry import TRUSTED

Hook = Callable[[tuple, bool], tuple]


def load_hook(path: str | None, where: str, trusted=()) -> Hook | None:
    """The function at an import path as hook(batch, training), or None.

    `training` goes to a parameter of that name, or else to a second one that is required; a function without either
    gets the batch alone, and its other parameters keep their defaults. where: the JSON path to report. Raises
    InputError for a module that is not trusted, a name that is not there and a function that can be called neither way.
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
    except (ImportError, AttributeError, SyntaxError) as error:
        raise InputError([Problem(where, f"cannot be imported: {error}")]) from None
    return _with_training(hook, path, where)


def _with_training(hook: Callable, path: str, where: str) -> Hook:
    if _takes(hook, None, training=False) and "training" in inspect.signature(hook).parameters:
        return lambda batch, training: hook(batch, training=training)
    if _takes(hook, None):
        return lambda batch, training: hook(batch)
    if _takes(hook, None, False):
        return hook
    raise InputError([Problem(where, f"{path} takes neither (batch) nor (batch, training)")])


def _takes(hook: Callable, *given, **named) -> bool:
    try:
        inspect.signature(hook).bind(*given, **named)
    except (TypeError, ValueError):
        return False
    return True
