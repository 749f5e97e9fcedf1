"""Arguments of augmentations, checked so that all that is wrong with them is said at once."""

from math import inf

from tlimb.errors import InputError, Problem


class Arguments:
    """Collects the problems of one augmentation's arguments; `done` raises them."""

    def __init__(self, name: str):
        self.name, self.problems = name, []

    def share(self, argument: str, value: float) -> float:
        """A number from 0 to 1."""
        self.require(argument, 0 <= value <= 1, f"expected a number from 0 to 1, found {value}")
        return value

    def amounts(self, argument: str, value: float | list[float], least: float = 0, most: float = inf):
        """(low, high): two numbers, or one that stands for 0 to itself; all between `least` and `most`."""
        return self._interval(argument, value, [0, value], least, most)

    def deviations(self, argument: str, value: float | list[float], least: float = -inf, most: float = inf):
        """(low, high): two numbers, or one that stands for minus to plus itself; all between `least` and `most`."""
        if not isinstance(value, list):
            self.require(argument, value >= 0, f"expected a number of at least 0 or two numbers, found {value}")
        return self._interval(argument, value, [value if isinstance(value, list) else -abs(value), value], least, most)

    def axes(self, value: list[int] | None) -> list[int] | None:
        """Different spatial axes out of 0, 1, 2, or null."""
        good = value is None or (0 < len(value) == len(set(value)) and set(value) <= {0, 1, 2})
        self.require("axes", good, f"expected different axes out of 0, 1, 2, found {value}")
        return value

    def require(self, argument: str, good: bool, message: str) -> None:
        """A problem with `argument` unless it is good."""
        if not good:
            self.problems.append(Problem(f"augment {self.name}: {argument}", message))

    def done(self) -> None:
        """Raises InputError where anything was wrong."""
        if self.problems:
            raise InputError(self.problems)

    def _interval(self, argument: str, value, alone: list[float], least: float, most: float):
        ends = value if isinstance(value, list) else alone
        good = len(ends) == 2 and least <= ends[0] <= ends[1] <= most
        bounds = f" of at least {least:g}" * (least > -inf) + f" and at most {most:g}" * (most < inf)
        self.require(argument, good, f"expected one number or two in rising order{bounds}, found {value}")
        return tuple(map(float, ends)) if good else (0.0, 0.0)
