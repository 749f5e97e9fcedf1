"""Checks of the numbers that terms are given."""

from tlimb.errors import InputError, Problem


def at_least(**arguments: tuple[float, float]) -> None:
    """Raises InputError for arguments of a term that are not finite numbers of at least so much: name -> (value,
    least)."""
    problems = [
        Problem(name, f"expected a number of at least {least:g}, found {value}")
        for name, (value, least) in arguments.items()
        if not least <= value < float("inf")
    ]
    if problems:
        raise InputError(problems)
