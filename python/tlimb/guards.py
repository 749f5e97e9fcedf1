"""What a class refuses of its arguments, read in the source of its constructor without importing it.

Only plain tests that stand at the top of a constructor are read, such as ``if lr < 0.0: raise ...`` and tlimb's own
``at_least(alpha=(alpha, 0))``, and those of the class it is derived from, with the arguments that are handed on to it.
What cannot be read refuses nothing.
"""

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

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


def refusals(path: str, given: dict, find: Find) -> list[Refusal]:
    """The tests of the class at an import path that raise with the arguments `given`, others being at their default."""
    constructor, base = _constructor(path, find)
    return _raised(constructor, _defaults(constructor) | given, base, find) if constructor else []


def required(path: str, find: Find) -> list[str]:
    """The arguments of the class at an import path that have no default, without `self`."""
    constructor, _ = _constructor(path, find)
    if constructor is None:
        return []
    given, named = constructor.args, [*constructor.args.posonlyargs, *constructor.args.args]
    bare = named[1 : len(named) - len(given.defaults)]
    bare += [place for place, default in zip(given.kwonlyargs, given.kw_defaults) if default is None]
    return [place.arg for place in bare]


def _constructor(path: str, find: Find) -> tuple[ast.FunctionDef | None, str]:
    """The constructor of a class, its own or inherited, and the path of the base class of the one that has it."""
    found = find(path) if path else None
    if found is None:
        return None, ""
    node, base = found
    own = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    return (own[0], base) if own else _constructor(base, find)


def _raised(constructor: ast.FunctionDef, known: dict, base: str, find: Find) -> list[Refusal]:
    found = []
    for statement in constructor.body:
        if any(isinstance(inner, ast.Return) for inner in ast.walk(statement)):
            break
        for test in _tests(statement):
            names = dict.fromkeys(inner.id for inner in ast.walk(test) if isinstance(inner, ast.Name))
            if _holds(test, known):
                found.append(Refusal(test, {name: known[name] for name in names if name in known}))
        call = _call_of_base(statement)
        above, further = _constructor(base, find) if call else (None, "")
        if above:
            found += _raised(above, _handed_on(call, above, known), further, find)
        stored = {one.id for one in ast.walk(statement) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        known = {name: value for name, value in known.items() if name not in stored}
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


def _handed_on(call: ast.Call, constructor: ast.FunctionDef, known: dict) -> dict:
    """What is known of the arguments of a constructor in a call of it."""
    named = [argument.arg for argument in (*constructor.args.posonlyargs, *constructor.args.args)][1:]
    passed = dict(zip(named, call.args)) | {word.arg: word.value for word in call.keywords}
    if None in passed or any(isinstance(one, ast.Starred) for one in call.args):
        return {}
    found = {name: value for name, value in _defaults(constructor).items() if name not in passed}
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
