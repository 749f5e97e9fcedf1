"""`tlimb list`: what a sweep may name, with what one has to know to choose it."""

import inspect
import json
import os
import sys

import click
import torch
from torch import nn

from tlimb import registry
from tlimb.architectures.build import build_network
from tlimb.architectures.wrapped import foreign_arguments
from tlimb.command import told_plainly
from tlimb.errors import InputError, Problem, nearest

SHAPES = {1: (32, 100), 2: (1, 80, 96), 3: (1, 80, 96, 80)}
"""Images of the default recipes (channels first), by axes of space: what networks are measured at unless told."""

KINDS = {1: "series", 2: "slices", 3: "volumes"}


def describe_class(kind: str, name: str, trusted=()) -> dict:
    """{"name", "class_path", "summary"} of a class; the summary is the first sentence of its docstring."""
    found = registry.load(kind, name, trusted)
    return {"name": name, "class_path": registry.locate(kind, name), "summary": _summary(found)}


def describe_architecture(name: str, init_args: dict, shape: tuple[int, ...] | None, trusted=()) -> dict:
    """Facts of an architecture, by short name or import path, built without memory for its weights.

    shape: (C, ...) of one image, SHAPES of each kind that it takes where None; what `init_args` leave out is taken from
    the class's attribute `example`, if it has one. Keys: those of `describe_class`,
    "reference", "kinds" of images, "arguments" {name: default}, and "built", a list with an entry a shape: "shape",
    "parameters", "features", "smallest", "blocks" [{"name", "parameters"}] and "parts", the same of all submodules
    within. Raises InputError where it does not take a shape.
    """
    kind = registry.load("architecture", name, trusted)
    init_args = getattr(kind, "example", {}) | init_args
    axes = [len(shape) - 1] if shape else _axes(name, kind, init_args)
    built = [_built(name, _dims(kind, each) | init_args, shape or SHAPES[each], trusted) for each in axes]
    facts = {"reference": getattr(kind, "reference", ""), "kinds": [KINDS[len(item["shape"]) - 1] for item in built]}
    return describe_class("architecture", name, trusted) | facts | {"arguments": _arguments(kind), "built": built}


def _axes(name: str, kind: type, init_args: dict) -> list[int]:
    """The numbers of axes to build a class for where no shape is told; those of `dims` where it is."""
    asked = init_args.get("dims", getattr(kind, "dims", None))
    takes = getattr(kind, "kinds", (asked,) if isinstance(asked, int) else ())
    if not takes:
        hint = "as in --shape 1,80,96,80: channels, then axes"
        raise InputError([Problem(f"architecture {name}", "does not say what images it takes; give --shape", hint)])
    return [axes for axes in takes if not isinstance(asked, int) or asked == axes]


def _dims(kind: type, axes: int) -> dict:
    return {"dims": axes} if "dims" in inspect.signature(kind).parameters else {}


def _built(name: str, init_args: dict, shape: tuple[int, ...], trusted) -> dict:
    with torch.device("meta"):
        encoder = build_network({"class_path": name, "init_args": init_args}, shape, {}, 0, trusted).encoder
    parts = {part: module for part, module in encoder.named_modules() if part and _count(module)}
    blocks = [{"name": block, "parameters": _count(encoder.get_submodule(block))} for block in encoder.blocks]
    return {
        "shape": list(shape),
        "parameters": _count(encoder),
        "features": encoder.features,
        "smallest": getattr(encoder, "smallest", None),
        "blocks": blocks,
        "parts": [{"name": part, "parameters": _count(module)} for part, module in parts.items()],
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _arguments(kind: type) -> dict:
    """The constructor's arguments that a sweep sets, with their defaults; "needed" for those without."""
    given = {"args", "kwargs", *registry.GIVEN}
    if not kind.__module__.startswith("tlimb."):
        given |= set(foreign_arguments(SHAPES[3]))
    named = {name: item for name, item in inspect.signature(kind).parameters.items() if name not in given}
    return {name: "needed" if item.default is item.empty else item.default for name, item in named.items()}


def _summary(found: type) -> str:
    text = inspect.cleandoc(found.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return text.partition(". ")[0].rstrip(".")


@click.command("list")
@click.argument("kind", metavar="KIND")
@click.argument("name", required=False)
@click.option("--shape", metavar="C,X,Y,Z", help="Build for images of this shape: channels, then axes.")
@click.option("--args", "arguments", metavar="JSON", default="{}", help="Build with these init_args.")
@click.option("-v", "--verbose", is_flag=True, help="Show the submodules within blocks.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@told_plainly
def list_command(kind: str, name: str | None, shape: str | None, arguments: str, verbose: bool, as_json: bool):
    """List what a sweep may name: KIND is architectures, heads, objectives, adapters, modules, augment and so on.

    For architectures: kinds of images, parameters in millions, blocks and reference; NAME, a short name or the import
    path of a class of your own, shows one of them closely.
    """
    sys.path.append(os.getcwd())  # modules of the user's own lie where Nextflow is started
    kind, size, init_args = _kind(kind), _shape(shape), _object(arguments)
    names = [name] if name else list(registry.SHORT_NAMES[kind])
    trusted = [name.split(".")[0]] if name else []  # who types a path trusts it
    if kind != "architecture":
        found = [_or_reason(describe_class, kind, each, trusted, alone=bool(name)) for each in names]
        text = "\n".join(_line(item, max(map(len, names))) for item in found)
    else:
        found = [_or_reason(describe_architecture, each, init_args, size, trusted, alone=bool(name)) for each in names]
        text = closely(found[0], verbose) if name else table(found, verbose)
    click.echo(json.dumps(found, indent=2, default=str) if as_json else text)


def _or_reason(describe, *arguments, alone: bool) -> dict:
    """What `describe` says; in a list of many the reason where it cannot, so that the others are shown."""
    try:
        return describe(*arguments)
    except InputError as error:
        if alone:
            raise
        name = arguments[0] if describe is describe_architecture else arguments[1]
        return {"name": name, "reason": "; ".join(map(str, error.problems))}


def table(found: list[dict], verbose: bool = False) -> str:
    """Architectures as a table: name, summary and reference, then a line for each kind of images."""
    sizes = ", ".join(f"{KINDS[axes]} {'x'.join(map(str, shape))}" for axes, shape in SHAPES.items())
    lines = [f"Parameters in millions, at images of {sizes} (channels first) unless --shape says otherwise."]
    for item in found:
        lines += ["", f"{item['name']}: {item.get('summary') or item.get('reason')}"]
        lines += [f"  {item['reference']}"] if item.get("reference") else []
        for one, kind in zip(item.get("built", []), item.get("kinds", [])):
            blocks = " ".join(part["name"] for part in _shown(one, verbose))
            lines.append(f"  {kind:8} {_millions(one['parameters'])} M, {one['features']} features; {blocks}")
    return "\n".join(lines)


def closely(item: dict, verbose: bool = False) -> str:
    """One architecture: what `table` says of it, its arguments, and its blocks one a line."""
    lines = [f"{item['name']} ({item['class_path']})", item["summary"], *filter(None, [item["reference"]])]
    lines.append("init_args: " + ", ".join(f"{key}={_plain(value)}" for key, value in item["arguments"].items()))
    for one, kind in zip(item["built"], item["kinds"]):
        least = one["smallest"] if one["smallest"] is not None else "not stated"
        least = "x".join(map(str, least)) if isinstance(least, (list, tuple)) else least
        shape = "x".join(map(str, one["shape"]))
        total = _millions(one["parameters"])
        lines += ["", f"{kind} {shape}: {total} M parameters, {one['features']} features, least size {least}"]
        shown = _shown(one, verbose)
        width = max(len(part["name"]) for part in shown) if shown else 0
        lines += [f"  {part['name']:{width}}  {_millions(part['parameters'])} M" for part in shown]
    return "\n".join(lines)


def _shown(built: dict, verbose: bool) -> list[dict]:
    return built["parts"] if verbose else built["blocks"]


def _millions(count: int) -> str:
    return f"{count / 1e6:.3f}" if count < 1e5 else f"{count / 1e6:.2f}"


def _plain(value) -> str:
    return value if value == "needed" else json.dumps(value, default=str)


def _line(item: dict, width: int) -> str:
    return f"{item['name']:{width}}  {item.get('summary') or item.get('reason')}"


def _kind(typed: str) -> str:
    """The key of the registry that a word stands for, in the plural or not."""
    for kind in registry.SHORT_NAMES:
        if typed in (kind, f"{kind}s"):
            return kind
    raise InputError([Problem("KIND", f"nothing is called '{typed}'", nearest(typed, registry.SHORT_NAMES))])


def _shape(typed: str | None) -> tuple[int, ...] | None:
    """(1, 80, 96, 80) of "1,80,96,80"."""
    if typed is None:
        return None
    parts = typed.replace("x", ",").split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts) or not 2 <= len(parts) <= 4:
        hint = "as in 1,80,96,80"
        raise InputError([Problem("--shape", f"expected channels and 1 to 3 sizes, found '{typed}'", hint)])
    return tuple(map(int, parts))


def _object(typed: str) -> dict:
    try:
        value = json.loads(typed)
    except json.JSONDecodeError as error:
        raise InputError([Problem("--args", f"is no JSON: {error}", 'as in {"depth": 50}')]) from None
    if not isinstance(value, dict):
        raise InputError([Problem("--args", f"expected a JSON object, found {typed}", 'as in {"depth": 50}')])
    return value
