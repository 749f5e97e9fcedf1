"""Checks of the numbers that terms are given."""

import math

from tlimb.errors import InputError, Problem


def require_at_least(term: str, low: float = 0.0, **given: float) -> None:
    """That numbers given to a term are finite and at least `low`. Raises InputError with all that are not."""
    wrong = [name for name, value in given.items() if not (math.isfinite(value) and value >= low)]
    problems = [
        Problem(f"{term}.init_args.{name}", f"expected a number of at least {low:g}, found {given[name]}")
        for name in wrong
    ]
    if problems:
        raise InputError(problems)
