"""What a sweep would run, counted without running it."""

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

from tlimb.config import Sweep
from tlimb.errors import InputError, Problem
from tlimb.files import canonical_json, read_json
from tlimb.search.check import Files, check_inputs
from tlimb.search.named_files import weights_paths
from tlimb.search.suggest import Proposal


SPLITS = 8  # described of many


@dataclass(frozen=True)
class Plan:
    """The counts of a run; sizes in bytes. model_bytes: weights of all encoders and models."""

    sweep: Sweep
    summary: dict
    proposal: Proposal
    store_bytes: dict[str, int]
    model_bytes: int


def plan_of(path: Path, trusted=()) -> Plan:
    """The plan of the sweep at `path`; raises InputError with everything that would stop the run."""
    document = read_json(path)
    if isinstance(document, dict):
        named = document.get("trusted_modules") or []
        trusted = (*trusted, *(named.split(",") if isinstance(named, str) else named))
    inputs = check_inputs(document, _files(document, path), trusted)
    shapes = {name: _shape(recipe) for name, recipe in inputs.sweep.recipes.items()}
    stores = {name: 2 * len(inputs.scans[name]) * prod(shape) for name, shape in shapes.items()}
    recipes = {name: recipe.model_dump() for name, recipe in inputs.sweep.recipes.items()}
    models = _model_bytes(inputs.proposal, inputs.cohort.summary["labels"], shapes, recipes, trusted)
    return Plan(inputs.sweep, inputs.cohort.summary, inputs.proposal, stores, models)


def _shape(recipe) -> tuple[int, ...]:
    """The shape of one prepared scan; a series is taken to have the regions of the recipe's atlas."""
    if recipe.kind == "series":
        from tlimb.preprocess.atlas import load_atlas

        return recipe.timepoints, len(load_atlas(recipe.atlas).names)
    from tlimb.preprocess.template import grid_shape

    return grid_shape(recipe)


def _model_bytes(proposal: Proposal, labels: dict, shapes: dict, recipes: dict, trusted) -> int:
    """Bytes of the weights of every encoder and model; networks are laid out without memory for them.

    Modules, augmentations and objectives are made too, so that values which only they can judge are told here.
    """
    import torch

    from tlimb import registry
    from tlimb.architectures.build import build_network
    from tlimb.scenarios.tuning import Tuner
    from tlimb.search.objectives_made import made_objective

    sizes: dict[str, int] = {}
    total, steps = 0, {}
    trained = [(line["spec"]["architecture"], line["spec"]["stage"]) for line in proposal.pretrainings]
    trained += [(trial["spec"]["architecture"], trial["spec"]["stages"][-1]) for trial in proposal.trials]
    for architecture, stage in trained:
        module, recipe = stage["data"]["module"], stage["data"]["recipe"]
        targets, heads = stage["targets"], stage["heads"]
        told = [stage["strategy"], stage["tuning"], stage["objective"]]
        key = canonical_json([architecture, module, recipe, targets, heads, *told])
        if key not in sizes:
            images = registry.load("module", module["class_path"], trusted)(**module["init_args"])
            heads = made_objective(stage, labels, trusted).heads(heads) | heads
            with torch.device("meta"):
                shape, outputs = images.input_shape(shapes[recipe]), dict.fromkeys(targets, 1)
                network = build_network(architecture, shape, outputs, 0, trusted, heads, recipes[recipe])
                Tuner(network, stage, 0, trusted)
            sizes[key] = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
        steps |= {canonical_json(augment): augment for augment in stage["data"]["augment"]}
        total += sizes[key]
    for augment in steps.values():
        registry.load("augment", augment["class_path"], trusted)(**augment["init_args"])
    return total


def _files(document, path: Path) -> Files:
    """The files a sweep names: relative to the working directory, else to the sweep's own folder."""
    document = document if isinstance(document, dict) else {}
    tables, split = document.get("label_tables") or [], document.get("split")
    tables = [tables] if isinstance(tables, str) else tables
    split_file = split.get("file") if isinstance(split, dict) else None
    weights = {name: _found("weights", name, path) for name in weights_paths(document)}
    return Files(
        _found("input", document.get("input", ""), path),
        [_found(f"label_tables[{i}]", name, path) for i, name in enumerate(tables)],
        _found("split.file", split_file, path) if split_file else None,
        {name: (file, str(file.absolute())) for name, file in weights.items()},
    )


def _found(key: str, name, path: Path) -> Path:
    places = [Path(str(name)), path.parent / str(name)]
    found = [place for place in places if name and place.exists()]
    if not found:
        looked = dict.fromkeys([str(Path.cwd()), str(path.parent.resolve())])
        message = f"nothing at '{name}', looked in {' and '.join(looked)}"
        raise InputError([Problem(f"{path}: {key}", message)])
    return found[0]


def _part(split: dict) -> str:
    """Which of the parts that a sweep asks for a resolved split is: `nested, fold 0, inner fold 2`."""
    keys = ("n", "repeat", "fold", "inner_fold", "held_out", "replicate")
    facts = [(key, split[key]) for key in keys if split[key] is not None and (key, split[key]) != ("repeat", 0)]
    return ", ".join([split["scheme"], *(f"{key.replace('_', ' ')} {_listed(value)}" for key, value in facts)])


def _listed(value) -> str:
    return " and ".join(value) if isinstance(value, list) else str(value)


def describe(plan: Plan) -> str:
    """The plan in a few lines of text."""
    trials, pretrainings = plan.proposal.trials, plan.proposal.pretrainings
    scratch = sum(trial["spec"]["stages"][-1]["strategy"] == "scratch" for trial in trials)
    roles = Counter((split, role) for split, role in zip(plan.proposal.splits["split"], plan.proposal.splits["role"]))
    lines = [
        f"{len(trials)} trials of {len({trial['candidate'] for trial in trials})} candidates "
        f"({len(plan.sweep.search.seeds)} seeds), {scratch} of them from scratch",
        f"{len(pretrainings)} distinct pretrainings",
        f"{plan.summary['scans']} scans of {plan.summary['persons']} persons: "
        + ", ".join(f"{name} {part['scans']}" for name, part in plan.summary["cohorts"].items()),
    ]
    splits = {trial["split"]: _part(trial["spec"]["split"]) for trial in trials}
    for split, part in list(splits.items())[:SPLITS]:
        parts = ", ".join(f"{role} {count}" for (name, role), count in sorted(roles.items()) if name == split)
        lines.append(f"last stage, {part}: scans {parts}")
    if len(splits) > SPLITS:
        lines.append(f"and {len(splits) - SPLITS} splits more")
    for name, size in plan.store_bytes.items():
        lines.append(f"store '{name}': {size / 1e9:.2f} GB")
    lines.append(f"weights of encoders and models: {plan.model_bytes / 1e9:.2f} GB")
    total = sum(plan.store_bytes.values()) + plan.model_bytes
    twice = "and twice that in the work directory until it is cleaned"
    lines.append(f"disk: about {total / 1e9:.2f} GB in outdir, {twice}")
    return "\n".join(lines + [f"warning: {text}" for text in plan.summary["warnings"]])
