"""What a user did wrong, said all at once and with the place it stands in."""

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the input.

    where: the file with row and column, or the JSON path, e.g. ``cohorts.csv, row 7, column image``.
    message: what is wrong and what was expected.
    hint: optional, the nearest valid name or the way out.
    """

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class InputError(Exception):
    """Every problem found in the input, one a line; commands print it and exit with 1."""

    def __init__(self, problems: list[Problem]):
        self.problems = list(problems)
        count = len(self.problems)
        heading = f"{count} problem{'s' if count != 1 else ''} in the input"
        super().__init__("\n".join([heading, *(f"  - {problem}" for problem in self.problems)]))


def nearest(name: str, valid) -> str:
    """A hint that names the closest of `valid` to `name`, or lists them when none is close and they are few."""
    valid = sorted(str(v) for v in valid)
    close = get_close_matches(str(name), valid, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"valid: {', '.join(valid)}" if 0 < len(valid) <= 12 else ""
