"""What a class refuses of its arguments, read in the source of its constructor without importing it.

Only plain tests that stand at the top of a constructor are read, such as ``if lr < 0.0: raise ...`` and tlimb's own
``at_least(alpha=(alpha, 0))``, and those of the class it is derived from, with the arguments that are handed on to it.
What cannot be read refuses nothing.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

COMPARED = {
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Is: operator.is_, ast.IsNot: operator.is_not},
    **{ast.In: lambda one, many: one in many, ast.NotIn: lambda one, many: one not in many},
}
KINDS = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict, "tuple": tuple, "Tensor": ()}
"""What a value is asked to be; none that comes from JSON is a tensor."""

Find = Callable[[str], tuple[ast.ClassDef, str] | None]
"""Import path -> a class's definition and the path of its first base class; None where there is no such class."""


@dataclass(frozen=True)
class Refusal:
    """A test that raises with the values of `names`, arguments of the constructor in which it stands."""

    test: ast.expr
    names: dict

    def __str__(self) -> str:
        if isinstance(self.test, ast.UnaryOp) and isinstance(self.test.op, ast.Not):
            return f"expected {ast.unparse(self.test.operand)}"
        return f"refused where {ast.unparse(self.test)}"


@dataclass(frozen=True)
class Step:
    """A statement at the top of a constructor: tests that raise with the names in them, a call of the constructor of
    the class that it is derived from, and names that it gives other values."""

    tests: list[tuple[ast.expr, list[str]]]
    call: ast.Call | None
    stored: set[str]


@dataclass(frozen=True)
class Constructor:
    """What is read of a constructor: its arguments by place without `self`, those without a default, the defaults that
    are plain values, its steps, and the import path of the first base class of its class."""

    named: list[str]
    required: list[str]
    defaults: dict
    steps: list[Step]
    base: str


def refusals(path: str, given: dict, find: Find, unknown: Iterable[str] = ()) -> list[Refusal]:
    """The tests of the class at an import path that raise with the arguments `given`, others being at their default,
    whatever the values of those that are `unknown`."""
    constructor = _constructor(path, find)
    if constructor is None:
        return []
    known = constructor.defaults | given
    return _raised(constructor, {name: known[name] for name in known if name not in unknown}, find)


def required(path: str, find: Find) -> list[str]:
    """The arguments of the class at an import path that have no default, without `self`."""
    constructor = _constructor(path, find)
    return constructor.required if constructor else []


@cache
def _constructor(path: str, find: Find) -> Constructor | None:
    """The constructor of a class, its own or inherited."""
    found = find(path) if path else None
    if found is None:
        return None
    node, base = found
    own = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    if not own:
        return _constructor(base, find)
    places = own[0].args
    named = [place.arg for place in (*places.posonlyargs, *places.args)][1:]
    bare = named[: len(named) - len(places.defaults)]
    bare += [place.arg for place, default in zip(places.kwonlyargs, places.kw_defaults) if default is None]
    return Constructor(named, bare, _defaults(own[0]), _steps(own[0]), base)


def _steps(constructor: ast.FunctionDef) -> list[Step]:
    """The statements of a constructor up to the first that may return, without those that tell nothing."""
    steps = []
    for statement in constructor.body:
        inner = list(ast.walk(statement))
        if any(isinstance(one, ast.Return) for one in inner):
            break
        stored = {one.id for one in inner if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        step = Step([(test, _names(test)) for test in _tests(statement)], _call_of_base(statement), stored)
        if step.tests or step.call or step.stored:
            steps.append(step)
    return steps


def _names(test: ast.expr) -> list[str]:
    return list(dict.fromkeys(inner.id for inner in ast.walk(test) if isinstance(inner, ast.Name)))


def _raised(constructor: Constructor, known: dict, find: Find) -> list[Refusal]:
    found = []
    for step in constructor.steps:
        for test, names in step.tests:
            if _holds(test, known):
                found.append(Refusal(test, {name: known[name] for name in names if name in known}))
        above = _constructor(constructor.base, find) if step.call else None
        if above:
            found += _raised(above, _handed_on(step.call, above, known), find)
        if not step.stored.isdisjoint(known):
            known = {name: value for name, value in known.items() if name not in step.stored}
    return found


def _tests(statement: ast.stmt) -> list[ast.expr]:
    """The tests of a statement that raises where one of them holds."""
    if isinstance(statement, ast.If) and isinstance(statement.body[-1], ast.Raise) and not statement.orelse:
        return [statement.test]
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != "at_least":
        return []
    asked = [word.value.elts for word in call.keywords if isinstance(word.value, ast.Tuple)]
    made = [ast.Compare(least, [ast.LtE(), ast.Lt()], [value, ast.Name("inf")]) for value, least in asked]
    return [ast.UnaryOp(ast.Not(), test) for test in made]


def _call_of_base(statement: ast.stmt) -> ast.Call | None:
    """The call `super().__init__(...)`, if a statement is one."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr != "__init__":
        return None
    return call if ast.unparse(call.func.value).startswith("super(") else None


def _handed_on(call: ast.Call, constructor: Constructor, known: dict) -> dict:
    """What is known of the arguments of a constructor in a call of it."""
    passed = dict(zip(constructor.named, call.args)) | {word.arg: word.value for word in call.keywords}
    if None in passed or any(isinstance(one, ast.Starred) for one in call.args):
        return {}
    found = {name: value for name, value in constructor.defaults.items() if name not in passed}
    for name, node in passed.items():
        try:
            found[name] = _value(node, known)
        except (LookupError, TypeError, ValueError):
            continue
    return found


def _defaults(constructor: ast.FunctionDef) -> dict:
    """Argument -> its default, of those whose default is a plain value."""
    places, found = [*constructor.args.posonlyargs, *constructor.args.args], {}
    pairs = list(zip(reversed(places), reversed(constructor.args.defaults)))
    for place, node in [*pairs, *zip(constructor.args.kwonlyargs, constructor.args.kw_defaults)]:
        try:
            found[place.arg] = _value(node, {})
        except (LookupError, TypeError, ValueError):
            continue
    return found


def _holds(test: ast.expr, known: dict) -> bool:
    """Whether a test is known to be true."""
    try:
        return bool(_value(test, known))
    except (LookupError, TypeError, ValueError):
        return False


def _value(node, known: dict):
    """The value of an expression; raises LookupError for a name that is not known and for what is no plain test."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return math.inf if node.id == "inf" else known[node.id]
        case ast.Tuple() | ast.List():
            return [_value(item, known) for item in node.elts]
        case ast.Subscript():
            return _value(node.value, known)[_value(node.slice, known)]
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, known)
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, known)
        case ast.BoolOp():
            return _joined(node, known)
        case ast.Compare():
            sides = [_value(side, known) for side in (node.left, *node.comparators)]
            return all(COMPARED[type(how)](one, two) for how, one, two in zip(node.ops, sides, sides[1:]))
        case ast.Call(func=ast.Name(id="len"), args=[one]):
            return len(_value(one, known))
        case ast.Call(func=ast.Name(id="isinstance"), args=[one, kinds]):
            asked = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
            return isinstance(_value(one, known), tuple(KINDS[ast.unparse(kind)] for kind in asked))
    raise LookupError(type(node).__name__)


def _joined(node: ast.BoolOp, known: dict) -> bool:
    """What `and` or `or` comes to, which one part may decide where others are not known."""
    decides, lacking = isinstance(node.op, ast.Or), None
    for item in node.values:
        try:
            if bool(_value(item, known)) is decides:
                return decides
        except (LookupError, TypeError, ValueError) as error:
            lacking = error
    if lacking:
        raise LookupError(str(lacking))
    return not decides
