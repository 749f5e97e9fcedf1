"""Points of a space: what is drawn for each choice, as JSON and back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

from tlimb.errors import Problem
from tlimb.files import canonical_json
from tlimb.search.grammar import Choice, choices_of, condition_problems, is_form, matches, order_of, same

NOTHING = object()
"""Stands for a choice whose condition does not hold."""


@dataclass(frozen=True)
class Space:
    """A space as choices.

    keys: in the order in which they are assigned. choices: by address, each after those that it depends on. unless:
    conditions of points that are left out.

    A draw is what is chosen: address -> the number of a variant, or a number of a distribution, for each active choice.
    A point is the same as JSON: address -> value, with the choices within a variant filled in.
    """

    keys: list[str]
    choices: dict[str, Choice]
    unless: list[dict]

    @property
    def finite(self) -> bool:
        """Whether there are lists all the way down."""
        return all(choice.kind == "variants" for choice in self.choices.values())

    @property
    def most(self) -> int:
        """The number of points of a finite space, or more where some choices are active in some points alone."""
        return prod(self._most(self.choices[key]) for key in self.keys)

    def _most(self, choice: Choice) -> int:
        inner = [one for one in self.choices.values() if one.parent and one.parent[0] == choice.address]
        within = [[one for one in inner if one.parent[1] == i] for i in range(len(choice.options))]
        return sum(prod(self._most(one) for one in ones) for ones in within) + bool(choice.when)

    def is_active(self, choice: Choice, draw: dict) -> bool:
        """Whether a choice is made at all, given the draw of those before it."""
        if choice.parent and draw.get(choice.parent[0]) != choice.parent[1]:
            return False
        return all(key in draw and matches(self.value(key, draw), wanted) for key, wanted in choice.when.items())

    def draw(self, decide: Callable[[Choice], float]) -> dict:
        """A draw in which `decide` says what each active choice is."""
        draw: dict = {}
        for address, choice in self.choices.items():
            if self.is_active(choice, draw):
                draw[address] = decide(choice)
        return draw

    def every(self) -> Iterator[dict]:
        """Every draw of a finite space, the last key moving first; distributions stand at their lower end."""
        yield from self._every(list(self.choices.values()), 0, {})

    def _every(self, choices: list[Choice], place: int, draw: dict) -> Iterator[dict]:
        while place < len(choices) and not self.is_active(choices[place], draw):
            place += 1
        if place == len(choices):
            yield draw
            return
        choice = choices[place]
        for option in range(len(choice.options)) if choice.kind == "variants" else [choice.low]:
            yield from self._every(choices, place + 1, draw | {choice.address: option})

    def value(self, address: str, draw: dict):
        """What a draw makes of an active choice."""
        choice, drawn = self.choices[address], draw[address]
        if choice.kind != "variants":
            return drawn
        return self._filled(choice.options[drawn], f"{address}[{drawn}]", draw)

    def _filled(self, value, address: str, draw: dict):
        """A variant with the choices within it made; those whose condition does not hold are left out."""
        if is_form(value):
            return self.value(address, draw) if address in draw else NOTHING
        if isinstance(value, dict):
            filled = {name: self._filled(item, f"{address}.{name}", draw) for name, item in value.items()}
            return {name: item for name, item in filled.items() if item is not NOTHING}
        if isinstance(value, list):
            items = (self._filled(item, f"{address}[{i}]", draw) for i, item in enumerate(value))
            return [item for item in items if item is not NOTHING]
        return value

    def point(self, draw: dict) -> dict:
        """A draw as JSON."""
        return {address: self.value(address, draw) for address in draw}

    def left_out(self, point: dict) -> dict | None:
        """The first condition of `unless` that a point fulfils, None where there is none."""
        for condition in self.unless:
            if all(address in point and matches(point[address], wanted) for address, wanted in condition.items()):
                return condition
        return None

    def locate(self, point: dict, usual: Callable[[str], int | None] = lambda key: None) -> dict | None:
        """The draw of a point, of this space or of an earlier one; None where it lies outside.

        usual: key -> the variant that is meant where a point lacks the key, None where there is none.
        """
        found: dict = {}
        for key in self.keys:
            if key in point:
                found |= self._located(self.choices[key], point[key]) or {}
            elif usual(key) is not None:
                found[key] = usual(key)
        try:
            draw = self.draw(lambda choice: found[choice.address])
        except KeyError:
            return None
        made = self.point(draw)
        asked = {key: point[key] for key in point if key in self.keys or "[" not in key}
        told = {key: made[key] for key in made if key in self.keys and (key in asked or usual(key) is None)}
        return draw if canonical_json(told) == canonical_json(asked) else None

    def _located(self, choice: Choice, value) -> dict | None:
        """The draw of a choice and of those within it that comes to a value."""
        if choice.kind != "variants":
            number = isinstance(value, int if "int" in choice.kind else (int, float)) and not isinstance(value, bool)
            return {choice.address: value} if number and choice.low <= value <= choice.high else None
        for i, option in enumerate(choice.options):
            inner = self._located_in(option, value, f"{choice.address}[{i}]")
            if inner is not None:
                return {choice.address: i} | inner
        return None

    def _located_in(self, written, value, address: str) -> dict | None:
        if is_form(written):
            return self._located(self.choices[address], value)
        pairs = []
        if isinstance(written, dict) and isinstance(value, dict):
            lacking = [name for name in written if name not in value]
            if not value.keys() <= written.keys() or not all(is_form(written[name]) for name in lacking):
                return None
            pairs = [(written[name], value[name], f"{address}.{name}") for name in value]
        elif isinstance(written, list) and isinstance(value, list) and len(written) == len(value):
            pairs = [(a, b, f"{address}[{i}]") for i, (a, b) in enumerate(zip(written, value))]
        elif not same(written, value):
            return None
        found: dict = {}
        for a, b, inner in pairs:
            located = self._located_in(a, b, inner)
            if located is None:
                return None
            found |= located
        return found


def read_space(space: dict, unless: list[dict], lists_only: bool, problems: list[Problem]) -> Space:
    """A space from its JSON; what is wrong with it is added to `problems`.

    lists_only: refuse distributions, of which no one can try every value.
    """
    by_key = choices_of(space, problems)
    order = order_of(by_key, problems)
    choices = {choice.address: choice for key in order for choice in by_key[key]}
    keys = {key: choices[key] for key in by_key if key in choices}
    for choice in choices.values():
        problems += condition_problems(choice.when, f"{choice.place}.when", keys)
        if lists_only and choice.kind != "variants":
            message = f"method grid tries every value, and '{choice.kind}' has no end of them"
            problems.append(Problem(choice.place, message, "list some, or use method random, bayes or halving"))
    for i, condition in enumerate(unless):
        where = f"search.unless[{i}]"
        if not condition:
            problems.append(Problem(where, "expected keys of the space and what they must be, found an empty object"))
        problems += condition_problems(condition, where, choices)
    return Space(list(keys), choices, unless)
