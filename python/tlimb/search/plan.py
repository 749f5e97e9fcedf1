"""What a sweep would run, counted without running it."""

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

import pandas as pd

from tlimb.config import Sweep
from tlimb.durations import duration_text
from tlimb.errors import InputError, Problem
from tlimb.files import canonical_json, read_json
from tlimb.search.again import Again, asked_again
from tlimb.search.check import Files, check_inputs
from tlimb.search.costs import Growth, Known, Step, fits_of, steps_of
from tlimb.search.named_files import weights_paths
from tlimb.search.rates import LEVELS
from tlimb.search.space import Candidates
from tlimb.search.split_rows import SplitRows
from tlimb.search.study import PASSED_OVER, Study, find_study, read_study
from tlimb.search.suggest import Proposal, outlook

SPLITS = 8  # described of many


@dataclass(frozen=True)
class Plan:
    """The counts of a run; sizes in bytes. proposal: of the first round; growth: what more rounds make of it. scans:
    recipe -> rows of the scans that it prepares; rows: of its splits. model_bytes: weights of all encoders and models.
    again: what a study before has already, which is not counted; passed_over: why it is not taken up, empty where it
    is."""

    sweep: Sweep
    summary: dict
    proposal: Proposal
    growth: Growth
    scans: dict[str, pd.DataFrame]
    rows: SplitRows
    store_bytes: dict[str, int]
    model_bytes: int
    again: Again = Again()
    passed_over: str = ""

    @property
    def left(self) -> tuple[Proposal, Growth]:
        """What is left to be done: a first round, and what more rounds make of it."""
        return self.again.counted(self.proposal, self.growth)


def plan_of(path: Path, trusted=(), study: Path | None = None) -> Plan:
    """The plan of the sweep at `path`; raises InputError with everything that would stop the run.

    study: of the search that it extends, study.json or a folder of rounds.
    """
    document = read_json(path)
    if isinstance(document, dict):
        named = document.get("trusted_modules") or []
        trusted = (*trusted, *(named.split(",") if isinstance(named, str) else named))
        study = study or (_found("study", document["study"], path) if document.get("study") else None)
    earlier, passed_over = _earlier(study) if study else (None, "")
    inputs = check_inputs(document, _files(document, path), trusted, earlier)
    shapes = {name: shape_of(recipe) for name, recipe in inputs.sweep.recipes.items()}
    stores = {name: 2 * len(inputs.scans[name]) * prod(shape) for name, shape in shapes.items()}
    recipes = {name: recipe.model_dump() for name, recipe in inputs.sweep.recipes.items()}
    models = _model_bytes(inputs.proposal, inputs.cohort.summary["labels"], shapes, recipes, trusted)
    growth = growth_of(inputs.sweep, inputs.proposal)
    pool = Candidates(inputs.sweep, trusted, inputs.cohort.summary["files"])
    again = asked_again(inputs.proposal, earlier, pool)
    reason = inputs.proposal.study.reason.split("; ")[0]
    passed_over = reason if reason.startswith(PASSED_OVER) else passed_over
    rows = SplitRows(inputs.proposal.splits, inputs.cohort.table, inputs.cohort.summary["labels"])
    counts = growth, inputs.scans, rows, stores, models, again, passed_over
    return Plan(inputs.sweep, inputs.cohort.summary, inputs.proposal, *counts)


def _earlier(path: Path) -> tuple[Study | None, str]:
    """The study to extend; None, and why, where there is one that this version cannot read, as the run has it."""
    file = find_study(path)
    try:
        return read_study(file), ""
    except InputError as error:
        return None, f"{PASSED_OVER}: {error}"


def shape_of(recipe) -> tuple[int, ...]:
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


def sizes_of(path: Path, trials_per_task: int | None = None, chunk_size: int | None = None) -> tuple[int, int]:
    """Most trials of a pack and most scans of a chunk: as given, else as the sweep's file says, else the pipeline's."""
    document = read_json(path)
    return trials_per_task or document.get("trials_per_task", 4), chunk_size or document.get("chunk_size", 64)


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


def growth_of(sweep: Sweep, proposal: Proposal) -> Growth:
    """What all rounds of a search come to at most, compared with the first one."""
    ahead, trials = outlook(sweep, proposal), proposal.trials
    started = [trial["init"] for trial in trials if trial["init"]]
    own = len(started) > 1 and len(set(started)) == len(started)  # each with a pretraining of its own
    points = max(1.0, (sweep.search.points or 0) / max(len({trial["candidate"] for trial in trials}), 1))
    return Growth(
        ahead["rounds"],
        ahead["trials"] / max(len(trials), 1),
        ahead["epochs"] / max(sum(trial["budget"] for trial in trials), 1),
        points if ahead["rounds"] > 1 else 1.0,
        points if own and ahead["rounds"] > 1 else 1.0,
    )


def describe(plan: Plan, known: Known, sizes: tuple[int, int]) -> str:
    """The plan in some lines of text. sizes: most trials of a pack, most scans of a chunk."""
    proposal, growth = plan.left
    steps = steps_of(plan.sweep, proposal, plan.scans, growth, known, sizes, plan.rows)
    parts = [_trials(plan), _scans(plan), _disk(plan), _tasks(steps), _time(plan, steps, known)]
    lines = [line for part in parts for line in part]
    warnings = [plan.passed_over, *plan.summary["warnings"]]
    return "\n".join(lines + [f"warning: {text}" for text in warnings if text])


def _trials(plan: Plan) -> list[str]:
    new, seeds = plan.again.new(plan.proposal), len(plan.sweep.search.seeds)
    trials, pretrainings = new.trials, new.pretrainings
    scratch = sum(trial["spec"]["stages"][-1]["strategy"] == "scratch" for trial in trials)
    lines = [
        f"{len(trials)} trials of {len({trial['candidate'] for trial in trials})} candidates "
        f"({seeds} seed{'s' if seeds > 1 else ''}), {scratch} of them from scratch",
        f"{len(pretrainings)} distinct pretrainings",
    ]
    if plan.again.asked:
        points = len({asked.candidate for asked in plan.again.asked})
        many = f"{plan.again.trials} trials of {points} candidates"
        lines.append(f"not counted: {many} that the study has, if scans and labels are still the same")
    if plan.growth.rounds == 1:
        return lines
    left, growth = plan.left
    most, epochs = growth.trials * len(left.trials), growth.epochs * sum(one["budget"] for one in left.trials)
    rounds = f"{growth.rounds} rounds of {plan.sweep.search.method}, at most"
    return [*lines, f"these are the first of {rounds}: {most:.0f} trainings of trials, {epochs:.0f} epochs in all"]


def _scans(plan: Plan) -> list[str]:
    trials, cohorts = plan.proposal.trials, plan.summary["cohorts"].items()
    listed = ", ".join(f"{name} {part['scans']}" for name, part in cohorts)
    lines = [f"{plan.summary['scans']} scans of {plan.summary['persons']} persons: {listed}"]
    roles = Counter((split, role) for split, role in zip(plan.proposal.splits["split"], plan.proposal.splits["role"]))
    splits = {trial["split"]: _part(trial["spec"]["split"]) for trial in trials}
    for split, part in list(splits.items())[:SPLITS]:
        parts = ", ".join(f"{role} {count}" for (name, role), count in sorted(roles.items()) if name == split)
        lines.append(f"last stage, {part}: scans {parts}")
    return lines + ([f"and {len(splits) - SPLITS} splits more"] if len(splits) > SPLITS else [])


def _disk(plan: Plan) -> list[str]:
    weights = plan.model_bytes * plan.growth.models
    lines = [f"store '{name}': {size / 1e9:.2f} GB" for name, size in plan.store_bytes.items()]
    lines.append(f"weights of encoders and models: {weights / 1e9:.2f} GB")
    total = sum(plan.store_bytes.values()) + weights
    twice = "and twice that in the work directory until it is cleaned"
    lines.append(f"disk: about {total / 1e9:.2f} GB in outdir, {twice}")
    if "halving" in plan.sweep.search.method:
        lines[-1] += "; there a paused training keeps a state of about 4 times its weights, too"
    return lines


def _tasks(steps: list[Step]) -> list[str]:
    """A line a process."""
    times = ["?" if step.seconds is None else duration_text(step.seconds) for step in steps]
    rows = [f"{step.process:<12}{step.tasks:>7}   {time}" for step, time in zip(steps, times)]
    return [f"{'task':<12}{'number':>7}   time of all together", *rows]


def _time(plan: Plan, steps: list[Step], known: Known) -> list[str]:
    """What all of it comes to, and what that is known from."""
    if not known.rates.trainings:
        return ["time: unknown until a first run; `tlimb plan --measure` times some steps of each network here"]
    total = sum(step.seconds or 0.0 for step in steps)
    lacking = [step.process for step in steps if step.seconds is None]
    more = f" and what {', '.join(lacking)} take" if lacking else ""
    lines = [f"time: about {duration_text(total)} of tasks{more}, {_at_once(total, known)}"]
    devices = sum(step.device_seconds or 0.0 for step in steps)
    if any(fit.devices > 1 for fit in fits_of(plan.left[0], plan.sweep)):
        lines.append(f"devices: about {devices / 3600:.1f} device hours, with several devices for some trainings")
    return lines + _known_from(plan, known)


def _at_once(total: float, known: Known) -> str:
    if known.trace is None:
        return "one after the other"
    at_once = known.trace.at_once
    return f"{duration_text(total / at_once)} with {at_once:.1f} of them at once, as in the last run"


def _known_from(plan: Plan, known: Known) -> list[str]:
    """What the estimate of time rests on."""
    found = [fit.seconds(known.rates) for fit in fits_of(plan.left[0], plan.sweep)]
    told = [one[1] for one in found if one is not None]
    others = [f"{told.count(level)} of {len(told)} trainings by those {level}" for level in LEVELS[1:] if level in told]
    lines = [f"known from {known.source}; early stopping makes it less", *others]
    if known.trace is not None and known.trace.memory:
        lines.append(f"memory: up to {known.trace.memory / 1e9:.1f} GB a task in the last run")
    return lines
