"""Arguments of encoders: numbers held against what they can be, and one number for all axes."""

import inspect
from collections.abc import Iterable

from tlimb.errors import InputError, Problem

PLACE = "architecture.init_args"
"""The JSON path of an encoder's arguments."""


def require_numbers(counts: dict | None = None, factors: dict | None = None, rates: dict | None = None) -> None:
    """Raises InputError with every argument, name -> number or list of numbers, that is out of its range.

    counts: at least 1. factors: above 0. rates: of dropout, 0 or more and less than 1. None stands for an argument that
    was left out and is not looked at.
    """
    ranges = [
        (counts, lambda number: number >= 1, "at least 1"),
        (factors, lambda number: number > 0, "a number above 0"),
        (rates, lambda number: 0 <= number < 1, "a rate, 0 or more and less than 1"),
    ]
    problems = []
    for given, fits, text in ranges:
        for name, value in (given or {}).items():
            numbers = value if isinstance(value, (list, tuple)) else [value]
            if value is not None and not all(fits(number) for number in numbers):
                found = list(value) if isinstance(value, tuple) else value
                problems.append(Problem(f"{PLACE}.{name}", f"expected {text}, found {found}"))
    if problems:
        raise InputError(problems)


def per_axis(given: int | list[int], dims: int) -> tuple[int, ...]:
    """One number for each of `dims` axes, of one for all or a list of them."""
    return (given,) * dims if isinstance(given, int) else tuple(given)


def axis_problems(dims: int, **sizes: tuple[int, ...]) -> list[Problem]:
    """A problem for each argument that is not `dims` whole numbers of 1 or more."""
    return [
        Problem(f"{PLACE}.{name}", f"expected one whole number, or {dims} of them, one an axis; found {list(given)}")
        for name, given in sizes.items()
        if len(given) != dims or min(given) < 1
    ]


def require_given(kind: type, given: Iterable[str], place: str) -> None:
    """Raises InputError with every argument that a constructor needs and is not among those `given`.

    place: the JSON path of the arguments.
    """
    named = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    needed = [
        name
        for name, item in inspect.signature(kind).parameters.items()
        if item.default is item.empty and item.kind in named and name not in set(given)
    ]
    if needed:
        raise InputError([Problem(f"{place}.{name}", f"missing; {kind.__name__} needs it") for name in needed])
