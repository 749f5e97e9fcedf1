"""What a file of weights holds, and how an encoder would be filled by it, in lines to read."""

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from tlimb.architectures.build import build_network
from tlimb.config import Weights
from tlimb.errors import InputError, Problem, nearest
from tlimb.scenarios.job import Pretrained, read_pretrained
from tlimb.weights.checkpoint import read_checkpoint
from tlimb.weights.kinds import tlimb_kind
from tlimb.weights.match import COUNTER, Match, Report, best_match, fitting_parts, match, recognised, wrong_numbers
from tlimb.weights.names import Pairs
from tlimb.weights.ready_maps import READY_MAPS

SHOWN = 10
"""Names told of many."""


def described(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file or folder, of the encoder alone where tlimb wrote it, and lines about them."""
    if tlimb_kind(path):
        encoder = read_pretrained(path)
        if encoder.failed:
            raise InputError([Problem(str(path), encoder.failed)])
        return encoder.encoder_weights(), _of_tlimb(encoder)
    tensors = read_checkpoint(path)
    counted = {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}
    lines = [f"{path}: {len(counted)} tensors, {sum(map(torch.numel, counted.values())) / 1e6:.2f} million numbers"]
    groups = Counter(".".join(name.split(".")[:2]) for name in counted)
    lines += [f"  {group}.*  {number}" if number > 1 else f"  {group}" for group, number in groups.items()]
    for name in recognised(tensors):
        ready = READY_MAPS[name]
        licence = ready.licence or "not known"
        lines.append(f"looks like {ready.title} ({ready.reference}); map {name}; licence {licence}")
    return tensors, lines


def _of_tlimb(encoder: Pretrained) -> list[str]:
    facts = encoder.facts
    recipe = ", ".join(f"{key} {value}" for key, value in sorted(facts["recipe"].items()))
    shape = "x".join(map(str, facts["input_shape"]))
    return [
        f"{encoder.folder}: {encoder.kind} {facts['id']} of tlimb {facts['made_with']['tlimb']}",
        f"  {facts['architecture']['class_path']} {facts['architecture']['init_args']} for images of {shape}",
        f"  targets: {', '.join(facts['targets']) or 'none'}; {facts['statistics']['scans']} training scans",
        f"  prepared by: {recipe} (fingerprint {facts['fingerprint']})",
        f"  licence: {facts['licence'] or 'not stated'}",
    ]


def tried(
    tensors: dict[str, Tensor],
    architecture: dict,
    shape: tuple[int, ...],
    part: str | None,
    pairs: Pairs | None,
    map_name: str | None,
    trusted=(),
) -> list[str]:
    """Lines about how the encoder, laid out without memory, would be filled. Raises InputError for an unknown part."""
    with torch.device("meta"):
        encoder = build_network(architecture, shape, {}, 0, trusted).encoder
    modules = dict(encoder.named_modules())
    if part is not None and part not in modules:
        raise InputError([Problem("--part", f"the encoder has no part '{part}'", nearest(part, modules))])

    def meet(module: torch.nn.Module) -> Match:
        return best_match(module, tensors) if pairs is None else match(module, tensors, pairs, map_name)

    report = meet(encoder if part is None else modules[part]).report
    lines = [f"into {architecture['class_path']}{f', {part}' if part else ''}: {report}", *_details(report)]
    usual = Weights().minimum
    if report.share < usual:
        lines.append(f"  would be refused: {report.share:.1%} of the parameters, where at least {usual:.0%} must match")
        others = fitting_parts(encoder, meet) if part is None else {}
        lines += [f"  --part {name} would get {share:.0%}" for name, share in others.items() if share >= usual]
    return lines


def _details(report: Report) -> list[str]:
    lines = [f"  map {report.map}"] if report.map else []
    lines += [f"  names begin with '{report.prefix}'"] if report.prefix else []
    lines += [f"  {name}: {', '.join(ways)}" for name, ways in report.reshaped.items()]
    lines += _some("missing", report.missing)
    lines += _some("another shape", [f"{name}: {text}" for name, text in report.mismatched.items()])
    lines += _some("unexpected", report.unexpected)
    return lines + [f"  would be refused: {problem}" for problem in wrong_numbers(report, "the file")]


def _some(what: str, items: list[str]) -> list[str]:
    """The first of many items, a line each, and how many more there are."""
    more = [f"  {what}: {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return [f"  {what}: {item}" for item in items[:SHOWN]] + more
