"""Values of a space tried alone on the base trial, and what of a trial others of them change."""

from collections.abc import Iterator
from dataclasses import dataclass

from tlimb.config import TrialBase
from tlimb.errors import InputError, Problem
from tlimb.parse import parse
from tlimb.search.paths import assign
from tlimb.search.points import Space


@dataclass(frozen=True)
class Alone:
    """The base trial with one value of a key: each variant, of nested choices and distributions first and last.

    address: of the choice. place: of the value in the sweep. draw: of the choices of the key. checked: the trial, None
    where it cannot be read, with the reasons in `problems`.
    """

    key: str
    address: str
    place: str
    draw: dict
    checked: TrialBase | None
    problems: list[Problem]


def each_alone(space: Space, base: dict) -> list[Alone]:
    """Every value of a space tried alone; of a key that leads nowhere the first."""
    found = []
    for key in space.keys:
        for address, place, draw in _draws(space, key):
            trial, lost = assign(base, key, space.value(key, draw))
            checked, problems = (None, lost) if lost else _read(trial, place)
            found.append(Alone(key, address, place, draw, checked, problems))
            if lost:
                break
    return found


class Varied:
    """The JSON paths of a trial that a space varies. base: the base trial, dumped."""

    def __init__(self, space: Space, base: dict, alone: list[Alone]):
        self._space, self._alone = space, [(one, one.checked.model_dump()) for one in alone if one.checked]
        self._by_key = {key: self._differing(key, base) for key in space.keys}

    def at_all(self) -> set[str]:
        """Those that any value changes."""
        return set().union(*self._by_key.values())

    def beside(self, one: Alone) -> set[str]:
        """Those that change while a choice stays as it is: by other keys, and by choices of its key that are not within
        it."""
        others = [paths for key, paths in self._by_key.items() if key != one.key]
        return set().union(*others, self._by_siblings(one))

    def _differing(self, key: str, base: dict) -> set[str]:
        return {path for one, trial in self._alone if one.key == key for path in differing(base, trial)}

    def _by_siblings(self, one: Alone) -> set[str]:
        within = {address: drawn for address, drawn in one.draw.items() if address in self._above(one.address)}
        if not within:
            return set()
        trials = [
            trial for other, trial in self._alone
            if other.key == one.key and other.address != one.address and one.address not in self._above(other.address)
            and all(other.draw.get(address) == drawn for address, drawn in within.items())
        ]  # fmt: skip
        return {path for trial in trials[1:] for path in differing(trials[0], trial)}

    def _above(self, address: str) -> list[str]:
        """The choices within whose variants a choice stands."""
        parent = self._space.choices[address].parent
        return [parent[0], *self._above(parent[0])] if parent else []


def differing(one, other, path: str = "") -> Iterator[str]:
    """The JSON paths at which two values differ, each as deep as both have it."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*one, *other]):
            inner = f"{path}.{name}" if path else name
            if name in one and name in other:
                yield from differing(one[name], other[name], inner)
            else:
                yield inner
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (first, second) in enumerate(zip(one, other)):
            yield from differing(first, second, f"{path}[{i}]")
    elif one != other:
        yield path


def _read(trial: dict, place: str) -> tuple[TrialBase | None, list[Problem]]:
    try:
        return parse(TrialBase, trial, place), []
    except InputError as error:
        return None, error.problems


def _draws(space: Space, key: str) -> Iterator[tuple[str, str, dict]]:
    """(address of the choice, place, draw) of every value of a key."""
    own = [choice for choice in space.choices.values() if choice.key == key]
    for choice in own:
        ends = range(len(choice.options)) if choice.kind == "variants" else (choice.low, choice.high)
        inner = [one for one in own if one.parent and one.parent[0] == choice.address]
        for end in ends:
            if choice.kind == "variants" and any(one.parent[1] == end for one in inner):
                continue
            draw = _path_to(space, choice) | {choice.address: end}
            for one in own:
                if one.address not in draw and one.parent and draw.get(one.parent[0]) == one.parent[1]:
                    draw[one.address] = 0 if one.kind == "variants" else one.low
            yield choice.address, f"{choice.place}[{end}]" if choice.kind == "variants" else choice.place, draw


def _path_to(space: Space, choice) -> dict:
    """The variants within which a choice stands."""
    draw = {}
    while choice.parent:
        draw[choice.parent[0]] = choice.parent[1]
        choice = space.choices[choice.parent[0]]
    return draw
