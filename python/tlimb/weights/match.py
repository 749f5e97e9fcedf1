"""Tensors from elsewhere met with a module's by name and shape, told in a report, and copied whole or not at all."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt

import torch
from torch import Tensor, nn

from tlimb.errors import InputError, Problem, nearest
from tlimb.weights.names import Pairs, translated
from tlimb.weights.ready_maps import READY_MAPS
from tlimb.weights.shapes import absorbed_biases, first_convolution, reshaped, resized, with_class_position

COUNTER = "num_batches_tracked"
"""What batch norms count; it changes nothing and is never reported."""

STATISTICS = ("running_mean", "running_var")
"""What a batch norm divides by once trained: parts of no share, without which its weight means nothing."""

SHOWN = 8
"""Names that a message lists before it says how many more there are."""


@dataclass(frozen=True)
class Report:
    """How a file's tensors met a module's. Names are the module's; those in `unexpected` are the file's.

    missing: only in the module. mismatched: name -> both shapes. reshaped: name -> how its tensor was made to fit.
    share: of the module's parameters (numbers, not tensors) that the file gives. prefix: what precedes the names in the
    file. map: the ready map used, if any. lost: those of `unexpected` that belong to a layer whose weight matched.
    rivals: other prefixes under which the file has as much of the module.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, str]
    reshaped: dict[str, list[str]]
    share: float
    prefix: str = ""
    map: str | None = None
    lost: list[str] = field(default_factory=list)
    rivals: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = Counter(way for ways in self.reshaped.values() for way in ways)
        ways = "".join(f", {number} {way}" for way, number in sorted(counts.items()))
        other = f", {len(self.mismatched)} of another shape" if self.mismatched else ""
        found, absent, beside = len(self.matched), len(self.missing), len(self.unexpected)
        counted = f"{found} matched{ways}, {absent} missing, {beside} unexpected{other}"
        return f"{counted}; {self.share:.1%} of the parameters"

    def facts(self) -> dict:
        """The report as model.json keeps it."""
        kept = ("missing", "unexpected", "mismatched", "reshaped", "share", "prefix", "map")
        return {"matched": len(self.matched)} | {name: getattr(self, name) for name in kept}


@dataclass(frozen=True)
class Match:
    """A report and the tensors to copy, by the module's names."""

    report: Report
    tensors: dict[str, Tensor] = field(repr=False)


def match(module: nn.Module, tensors: dict[str, Tensor], pairs: Pairs = (), map_name: str | None = None) -> Match:
    """How a file's tensors would fill a module; nothing is copied. Works on the device "meta", too.

    Names are translated by `pairs`, then freed of the prefix that leaves the most parameters known to the module; then
    they must be equal. Shapes must be equal or lead to each other by a rule of `reshaped`.
    """
    own = {name: tensor for name, tensor in module.state_dict().items() if not name.endswith(COUNTER)}
    renamed = {new: tensors[old] for new, old in translated(tensors, pairs).items()}
    given = {name: tensor for name, tensor in renamed.items() if not name.endswith(COUNTER)}
    (prefix, stem), rivals = _prefix(given, own)
    named = {stem + name.removeprefix(prefix): name for name in given if name.startswith(prefix)}
    prepared, ways = _prepared(module, own, {name: given[old] for name, old in named.items()})
    first, fitted, mismatched = first_convolution(module), {}, {}
    for name in [name for name in own if name in prepared]:
        met = reshaped(prepared[name], own[name].shape, is_first=name == first)
        if met is None:
            mismatched[name] = f"{_size(prepared[name])} in the file, {_size(own[name])} in the network"
            continue
        fitted[name] = met[0].to(own[name].dtype)
        if met[1] or name in ways:
            ways[name] = [*ways.get(name, []), *met[1]]
    used = {named[name] for name in (*fitted, *mismatched, *ways) if name in named}
    report = Report(
        matched=list(fitted),
        missing=[name for name in own if name not in fitted and name not in mismatched],
        unexpected=[name for name in given if name not in used],
        mismatched=mismatched,
        reshaped=ways,
        share=_share(module, fitted),
        prefix=prefix,
        map=map_name,
        lost=[old for name, old in named.items() if old not in used and _weight_beside(name) in fitted],
        rivals=rivals,
    )
    counters = [name for name in module.state_dict() if name not in own and prefix + name.removeprefix(stem) in renamed]
    return Match(report, fitted | {name: renamed[prefix + name.removeprefix(stem)] for name in counters})


def best_match(module: nn.Module, tensors: dict[str, Tensor]) -> Match:
    """The match by that ready map, of those whose marks the file bears, or by plain names that fills the most."""
    known = [match(module, tensors, READY_MAPS[name].pairs, name) for name in recognised(tensors)]
    return max([*known, match(module, tensors)], key=lambda one: one.report.share)


def recognised(tensors: dict[str, Tensor]) -> list[str]:
    """The ready maps whose marks are all found among the names of a file."""
    axes = max((tensor.ndim - 2 for name, tensor in tensors.items() if name.endswith("weight")), default=0)
    return [
        name
        for name, ready in READY_MAPS.items()
        if ready.axes in (None, axes) and all(any(re.search(mark, key) for key in tensors) for mark in ready.marks)
    ]


def _share(module: nn.Module, fitted: dict[str, Tensor]) -> float:
    """The share of a module's parameters, counted in numbers, that are among `fitted`."""
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    return sum(size for name, size in sizes.items() if name in fitted) / max(1, sum(sizes.values()))


def _prepared(
    module: nn.Module, own: dict[str, Tensor], given: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The file's tensors after what needs more than one of them to say, and what was done to which."""
    ways: dict[str, list[str]] = {}
    for bias, mean, value in list(absorbed_biases(set(own), given)):
        given = given | {mean: value}
        ways |= {mean: ["bias taken over"], bias: ["bias taken over"]}
    if hasattr(module, "fit_positions"):
        before, given = given, module.fit_positions(given)
        ways |= {name: ["resized"] for name in given if given[name].shape != before[name].shape}
    for name in [name for name in own if name.endswith("position_embeddings") and name in given]:
        token = name.removesuffix("position_embeddings") + "cls_token"
        if token in own and token in given and _has_class_position(given[name], own[name]):
            given = with_class_position(given, token, name)
            ways |= {token: ["position added"], name: ["position of the token taken off"]}
        grid = getattr(module, "grid", None)
        if grid is None or given[name].ndim != 3 or given[name].shape[1] == own[name].shape[1]:
            continue
        codes = resized(given[name], grid)
        if codes is not None:
            given, ways = given | {name: codes}, ways | {name: [*ways.get(name, []), "resized"]}
    return given, ways


def _has_class_position(given: Tensor, own: Tensor) -> bool:
    """Whether position codes (1, n, d) begin with that of a class token: there is one more than the module has, or n
    is one more than a square and no square itself."""
    if given.ndim != 3 or given.shape[1] == own.shape[1]:
        return False
    n = given.shape[1]
    return n == own.shape[1] + 1 or (isqrt(n - 1) ** 2 == n - 1 and isqrt(n) ** 2 != n)


def _prefix(given: dict[str, Tensor], own: dict[str, Tensor]) -> tuple[tuple[str, str], list[str]]:
    """What to take off the file's names, and what to put before them, so that the most numbers find their name; and the
    other prefixes that do as well and hold other numbers, where it is at least half of the module.

    All names of the module may share a first part (``model.`` of a wrapped network), which files need not have.
    """
    stems = {name.partition(".")[0] for name in own}
    candidates = [""] + [f"{stem}." for stem in stems if len(stems) == 1 and all("." in name for name in own)]
    votes: Counter[tuple[str, str]] = Counter({("", ""): 0})
    for name in given:
        parts = name.split(".")
        for k in range(len(parts)):
            rest = ".".join(parts[k:])
            for stem in candidates:
                if stem + rest in own:
                    votes[name.removesuffix(rest), stem] += own[stem + rest].numel()
    best = max(votes, key=lambda one: (votes[one], -len(one[0]) - len(one[1])))
    if 2 * votes[best] < sum(tensor.numel() for tensor in own.values()):
        return best, []
    equal = dict.fromkeys(prefix for prefix, stem in votes if votes[prefix, stem] == votes[best])
    return best, [prefix for prefix in equal if _are_two(given, best[0], prefix)]


def _are_two(given: dict[str, Tensor], first: str, second: str) -> bool:
    """Whether two prefixes are of two networks: neither lies within the other, and their numbers differ."""
    if first.startswith(second) or second.startswith(first):
        return False
    ends = [name.removeprefix(first) for name in given if name.startswith(first)]
    pairs = [(given[first + end], given[second + end]) for end in ends if second + end in given]
    return any(one.shape != other.shape or bool((one != other).any()) for one, other in pairs)


def copy_matched(module: nn.Module, matched: Match) -> None:
    """Copy what matched; every other tensor of the module keeps its value."""
    with torch.no_grad():
        whole = module.state_dict()
        module.load_state_dict(whole | matched.tensors)


def require_share(
    matched: Match, minimum: float, source: str, part: str, others: dict[str, float], why: str = ""
) -> None:
    """Raises InputError where a file gives too little, with the nearest names for those that are missing, and, however
    much it gives, for what `wrong_numbers` tells.

    part: what messages call the module. others: other parts of the encoder that the file would fill -> their share.
    why: the reason for `minimum` where it is not the sweep's own.
    """
    problems = _too_little(matched.report, minimum, source, part, others, why) if matched.report.share < minimum else []
    problems += wrong_numbers(matched.report, source)
    if problems:
        raise InputError(problems)


def fitting_parts(encoder: nn.Module, meet: Callable[[nn.Module], Match]) -> dict[str, float]:
    """Parts of an encoder that weights may be meant for -> the share that they would be given: children that hold at
    least a fifth of its parameters. meet: matches the weights with a module."""
    fifth = sum(map(torch.numel, encoder.parameters())) / 5
    large = [(name, of) for name, of in encoder.named_children() if sum(map(torch.numel, of.parameters())) >= fifth]
    return {name: meet(module).report.share for name, module in large}


def wrong_numbers(report: Report, source: str) -> list[Problem]:
    """Why a module would compute something else than the file's network did, though its parameters are filled: batch
    norms without their statistics, tensors of matched layers for which it has no place, two networks in one file."""
    problems = []
    bare = [name for name in report.missing if name.endswith(STATISTICS) and _weight_beside(name) in report.matched]
    if bare:
        message = f"has weights of batch norms without what they divide by: {_listed(bare)}"
        problems.append(Problem(source, message, "save buffers beside parameters, as `state_dict()` does"))
    if report.lost:
        note = READY_MAPS[report.map].note if report.map else ""
        message = f"has tensors that its layers need and the network has no place for: {_listed(report.lost)}"
        otherwise = "set the encoder's arguments to those of the file's network"
        problems.append(Problem(source, message, f"{READY_MAPS[report.map].title}: {note}" if note else otherwise))
    if report.rivals:
        names = ", ".join(f"'{prefix}'" for prefix in (report.prefix, *report.rivals))
        message = f"holds more than one network, each of which would fit: {names}"
        dropped = json.dumps({f"^{re.escape(prefix)}": None for prefix in report.rivals})
        translates = report.map is not None and READY_MAPS[report.map].pairs
        hint = "save the tensors of one alone" if translates else f"keep one, such as by weights.map {dropped}"
        problems.append(Problem(source, message, hint))
    return problems


def _weight_beside(name: str) -> str:
    """The name of the weight of the layer that a tensor is of."""
    return ".".join([*name.split(".")[:-1], "weight"])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _too_little(
    report: Report, minimum: float, source: str, part: str, others: dict[str, float], why: str
) -> list[Problem]:
    needed = why or f"at least {minimum:.0%} must match"
    message = f"gives {report.share:.1%} of the parameters of {part}, and {needed}: {report}"
    hints = [f'weights.part "{name}" would get {share:.0%}' for name, share in others.items() if share >= minimum]
    otherwise = "translate names by weights.map" if why else "lower weights.minimum, or translate names by weights.map"
    problems = [Problem(source, message, "; ".join(hints) or otherwise)]
    for name in report.missing[:SHOWN]:
        problems.append(Problem(name, "missing in the file", _nearest_name(name, report.unexpected)))
    shapes = list(report.mismatched.items())[:SHOWN]
    problems += [Problem(name, f"has another shape: {text}") for name, text in shapes]
    more = len(report.missing) + len(report.mismatched) - (len(problems) - 1)
    if more > 0:
        problems.append(Problem(source, f"{more} more names are missing or of another shape"))
    return problems


def _nearest_name(name: str, names: list[str]) -> str:
    """A hint at the file's name that is closest; only names with the same end are compared, as there may be many."""
    end = name.rpartition(".")[2]
    alike = [one for one in names if one.rpartition(".")[2] == end]
    return nearest(name, alike or names)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
