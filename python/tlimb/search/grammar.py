"""The grammar of a space: a list of variants or a distribution for each key, and more of them within a variant."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from tlimb.errors import Problem, nearest

RANGES = ("uniform", "log_uniform", "int", "log_int")
FORMS = (*RANGES, "variants")
ENDS = "[low, high], two numbers of which the first is the lower one"


@dataclass(frozen=True)
class Choice:
    """One thing that is chosen.

    address: a key of the space, or where it stands in a variant of one, ``key[1].init_args.alpha``. kind: "variants" or
    a distribution. options: the variants as written, none of a distribution. low, high: its ends, both included.
    parent: the choice within whose variant it stands and the number of that variant. when: other keys of the space and
    what they must be.
    """

    address: str
    key: str
    kind: str
    options: tuple = ()
    low: float = 0
    high: float = 0
    parent: tuple[str, int] | None = None
    when: dict = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where it stands in the sweep, as problems name it."""
        return f"search.space.{self.key!r}{self.address[len(self.key) :]}"


def is_form(value) -> bool:
    """Whether a JSON value within a variant is a choice of its own."""
    if not isinstance(value, dict):
        return False
    names = [name for name in value if name != "when"]
    return len(names) == 1 and names[0] in FORMS and isinstance(value[names[0]], list)


def forms_in(value, address: str) -> Iterator[tuple[str, dict]]:
    """(address, object) of the choices that stand in a variant, not those within their own variants."""
    if is_form(value):
        yield address, value
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from forms_in(value[name], f"{address}.{name}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from forms_in(item, f"{address}[{i}]")


def choices_of(space: dict, problems: list[Problem]) -> dict[str, list[Choice]]:
    """Key -> its choices, outer ones first. What cannot be read is added to `problems` and left out."""
    found = {}
    for key in sorted(space, key=breadth):
        form = {"variants": space[key]} if isinstance(space[key], list) else space[key]
        where = f"search.space.{key!r}"
        if is_form(form):
            found[key] = list(_choices(key, key, form, None, problems))
        else:
            problems.append(_no_form(form, where))
    addresses = Counter(choice.address for choices in found.values() for choice in choices)
    for address in (address for address, times in addresses.items() if times > 1):
        problems.append(Problem(f"search.space.{address!r}", "two choices have this address; rename a key"))
    return found


def breadth(key: str) -> tuple:
    """By this keys are put in order: those for more of a trial first, so that those for a part of it come after."""
    depths = [0 if path.strip() == "*" else path.count(".") + 1 for path in key.split(",")]
    return min(depths), key


def _choices(key: str, address: str, form: dict, parent, problems: list[Problem]) -> Iterator[Choice]:
    kind = next(name for name in form if name != "when")
    choice = Choice(address, key, kind, parent=parent)
    when = form.get("when", {})
    if not isinstance(when, dict) or ("when" in form and not when):
        message = "expected an object of other keys of the space and what they must be"
        problems.append(Problem(f"{choice.place}.when", message))
        when = {}
    if kind != "variants":
        message = range_problem(kind, form[kind])
        if message:
            problems.append(Problem(f"{choice.place}.{kind}", message))
            return
        ends = form[kind] if "int" in kind else map(float, form[kind])
        yield Choice(address, key, kind, (), *ends, parent, when)
        return
    if not form[kind]:
        problems.append(Problem(choice.place, "expected at least one variant, found an empty list"))
    yield Choice(address, key, kind, tuple(form[kind]), parent=parent, when=when)
    for i, variant in enumerate(form[kind]):
        problems += misspelt(variant, f"{choice.place}[{i}]")
        for inner, nested in forms_in(variant, f"{address}[{i}]"):
            yield from _choices(key, inner, nested, (address, i), problems)


def range_problem(kind: str, ends: list) -> str:
    """What is wrong with the ends of a distribution; empty where nothing is."""
    numbers = [end for end in ends if isinstance(end, (int, float)) and not isinstance(end, bool)]
    if len(ends) != 2 or len(numbers) != 2 or not all(map(math.isfinite, numbers)):
        return f"expected {ENDS}, found {ends!r}"
    if "int" in kind and not all(isinstance(end, int) for end in ends):
        return f"expected whole numbers, found {ends!r}"
    if ends[0] >= ends[1]:
        return f"expected {ENDS}, found {ends!r}"
    if kind.startswith("log") and ends[0] <= 0:
        return f"expected numbers above 0, whose logarithms are evenly spread, found {ends!r}"
    return ""


def misspelt(value, where: str) -> list[Problem]:
    """Objects in a variant that were meant for a distribution: one name like that of one, and two numbers."""
    if isinstance(value, list):
        return [problem for i, item in enumerate(value) for problem in misspelt(item, f"{where}[{i}]")]
    if not isinstance(value, dict) or is_form(value):
        return []
    names = [name for name in value if name != "when"]
    ends = value[names[0]] if len(names) == 1 else None
    if isinstance(ends, list) and len(ends) == 2 and not range_problem("uniform", sorted(ends, key=str)):
        if get_close_matches(names[0], RANGES, n=1, cutoff=0.7):
            return [_no_form(value, where)]
    return [problem for name in value for problem in misspelt(value[name], f"{where}.{name}")]


def _no_form(form: dict, where: str) -> Problem:
    """That an object is no distribution, with the name that comes nearest."""
    names = [name for name in form if name != "when"]
    known = [name for name in names if name in FORMS]
    if known and len(names) > 1:
        other = next(name for name in names if name != known[0])
        return Problem(f"{where}.{other}", f"unknown key beside '{known[0]}'", nearest(other, ["when"]))
    if known:
        return Problem(f"{where}.{known[0]}", f"expected a list, found {form[known[0]]!r}")
    message = f"expected a list of variants or an object that names a distribution, found {', '.join(map(repr, names))}"
    return Problem(where, message, nearest(names[0], FORMS) if names else f"valid: {', '.join(FORMS)}")


def same(one, other) -> bool:
    """Whether two JSON values are equal; 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def matches(value, wanted) -> bool:
    """Whether a value is what a condition wants: equal to it, or to one of its items where it is a list; of objects all
    that the condition names must be equal. Choices that stand in a variant as written may be anything."""
    return _like(value, wanted) or (isinstance(wanted, list) and any(_like(value, one) for one in wanted))


def _like(value, wanted) -> bool:
    if is_form(value):
        return True
    if isinstance(value, dict) and isinstance(wanted, dict):
        return all(key in value and _like(value[key], wanted[key]) for key in wanted)
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(_like(a, b) for a, b in zip(value, wanted))
    return same(value, wanted)


def may_match(choice: Choice, wanted) -> bool:
    """Whether any value of a choice is what a condition wants."""
    if choice.kind == "variants":
        return any(matches(option, wanted) for option in choice.options)
    numbers = [one for one in (wanted if isinstance(wanted, list) else [wanted]) if isinstance(one, (int, float))]
    return any(choice.low <= number <= choice.high for number in numbers)


def condition_problems(condition: dict, where: str, choices: dict[str, Choice]) -> list[Problem]:
    """Keys of a condition that are not there, and what none of their values is."""
    problems = []
    for key, wanted in condition.items():
        if key not in choices:
            message = f"no key of the space is called {key!r}"
            problems.append(Problem(where, message, nearest(key, choices)))
        elif not may_match(choices[key], wanted):
            message = f"never holds: {key!r} is never {wanted!r}"
            problems.append(Problem(where, message, "an object names what must be equal; a list holds alternatives"))
    return problems


def order_of(choices: dict[str, list[Choice]], problems: list[Problem]) -> list[str]:
    """The keys, each after those that its conditions name; a circle is added to `problems`."""
    named = {key: {other for choice in own for other in choice.when} & set(choices) for key, own in choices.items()}
    try:
        list(TopologicalSorter(named).static_order())
    except CycleError as error:
        circle = " needs ".join(repr(key) for key in reversed(error.args[1]))
        problems.append(Problem("search.space", f"conditions that wait for each other: {circle}"))
        return list(choices)
    order: list[str] = []
    while len(order) < len(choices):
        order.append(next(key for key in choices if key not in order and named[key] <= set(order)))
    return order
