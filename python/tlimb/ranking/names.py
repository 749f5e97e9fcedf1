"""What sets candidates apart, and the shortest readable name that says so."""

from collections.abc import Set

from tlimb.files import canonical_json
from tlimb.ranking.tuning_words import deciding_words, tuning_words
from tlimb.ranking.varied import term_names, varied_paths
from tlimb.registry import class_name
from tlimb.search.combinations import is_fitted
from tlimb.splits import PART

Path = tuple[str, ...]
CLASSES = {"architecture", "optimizer", "scheduler", "module", "primary", "scenario", "combine"}
"""Keys whose value is a class, which names itself."""

LISTS = {"auxiliary", "augment", "callbacks"}
"""Keys whose value is a list of classes, each of which a candidate has or has not."""

OF_TRAINING = {"epochs", "batch_size", "optimizer", "scheduler", "gradient_clip", "early_stopping", "monitor"}
"""Keys of a stage that mean nothing where it is not trained."""


def strategy_of(trial: dict) -> str:
    """`scratch` where nothing is transferred, `fitted` where nothing is trained, else the last stage's strategy, `after
    <class>` where the stage before learned without labels by that term; then `+ <word>` for each way to tune that makes
    another strategy of it, and `+ <class>` for each auxiliary term and for what combines the targets' losses."""
    last = trial["spec"]["stages"][-1]
    objective = last.get("objective", {})
    terms = [class_name(term) for term in [*objective.get("auxiliary", []), objective.get("combine")] if term]
    return " + ".join([_start(trial) + _taught_by(trial), *deciding_words(last.get("tuning", {})), *terms])


def candidate_names(trials: dict[str, dict], space: dict | None = None) -> dict[str, str]:
    """Candidate id -> a name that no other candidate has, such as `full, lr 0.001, L2SP alpha 0.01`.

    trials: candidate id -> any of its trials. space: of the search; what it varies is told of a candidate that alone
    has it, too.
    """
    settings = {candidate: settings_of(trial) for candidate, trial in trials.items()}
    stages = max(([stage["name"] for stage in trial["spec"]["stages"]] for trial in trials.values()), key=len)
    starts = {candidate: _start(trial) for candidate, trial in trials.items()}
    return distinct_names(settings, stages[-1], starts, varied_paths(space or {}, stages, settings.values()))


def pretraining_names(pretrainings: dict[str, dict]) -> dict[str, str]:
    """Key -> a name for each pretraining that says its stage and what sets it apart from the others.

    pretrainings: key -> a line of pretrainings.jsonl.
    """
    settings = {}
    for key, line in pretrainings.items():
        spec = {"architecture": line["spec"]["architecture"], "stages": [line["spec"]["stage"]]}
        settings[key] = settings_of({"spec": spec, "init": line["parent"]})
        del settings[key][("strategy",)]
    stages = {key: line["stage"] for key, line in pretrainings.items()}
    names = distinct_names(settings, next(iter(stages.values()), ""), {})
    return {key: ", ".join(filter(None, [stages[key], name])) for key, name in names.items()}


def pretraining_groups(pretrainings: list[dict]) -> dict[str, list[dict]]:
    """Name -> lines of pretrainings.jsonl that differ in nothing but their seed and what they start from."""
    grouped: dict[str, list[dict]] = {}
    for line in pretrainings:
        grouped.setdefault(canonical_json([line["spec"]["architecture"], line["spec"]["stage"]]), []).append(line)
    names = pretraining_names({key: lines[0] for key, lines in grouped.items()})
    return {names[key]: lines for key, lines in grouped.items()}


def encoder_names(pretrainings: list[dict]) -> dict[str, str]:
    """Id -> a name for each line of pretrainings.jsonl, its seed among it where there are several."""
    found = {}
    for name, lines in pretraining_groups(pretrainings).items():
        seeds = [line["seed"] for line in lines]
        for line in lines:
            said = f"{name}, seed {line['seed']}" if len(lines) > 1 else name
            found[line["id"]] = said if seeds.count(line["seed"]) == 1 else f"{said} ({line['id'][:6]})"
    return found


def trial_name(trial: dict) -> str:
    """What tells a trial of ranking.json from the others of its candidate: `seed 0`, `seed 0, fold 2, replicate 11`."""
    parts = [("seed", trial["seed"]), ("repeat", trial["repeat"] or None), ("fold", trial["fold"])]
    parts += [("inner fold", trial["inner_fold"]), ("replicate", trial["replicate"])]
    return ", ".join(f"{word} {value}" for word, value in parts if value is not None)


def distinct_names(
    settings: dict[str, dict[Path, object]], last_stage: str, starts: dict[str, str], varied: Set[Path] = frozenset()
) -> dict[str, str]:
    """Key -> the settings in which the keys differ, as short text; `starts` come first where a name would be empty.

    varied: settings that are told wherever not all keys have them.
    """
    paths = differing(settings, varied)
    labels = path_labels(paths, last_stage)
    names = {key: _name(found, paths, labels) for key, found in settings.items()}
    if not all(names.values()):
        names = {key: ", ".join(filter(None, [starts.get(key, ""), name])) for key, name in names.items()}
    for name in sorted(set(names.values())):
        alike = [key for key in names if names[key] == name]
        if len(alike) > 1:
            names |= _told_apart(name, alike, settings, labels)
    return names


def settings_of(trial: dict) -> dict[Path, object]:
    """Path -> value of every setting that a candidate's trials share; a class is its name, and its arguments follow."""
    spec, start = trial["spec"], _start(trial)
    found: dict[Path, object] = {("strategy",): start}
    _collect(found, ("architecture",), spec["architecture"])
    for stage in reversed(spec["stages"]):
        hidden = {"name", "objective", "tuning"}
        if stage is spec["stages"][-1]:
            hidden |= {"strategy"} | (OF_TRAINING if start == "direct" else set())
        shown = {"data"} if is_fitted(spec["architecture"]) else set(stage) - hidden
        _collect(found, (stage["name"],), _told({key: value for key, value in stage.items() if key in shown}))
        if not is_fitted(spec["architecture"]):
            found[stage["name"], "tuning"] = tuning_words(stage.get("tuning", {}))
            _collect(found, (stage["name"], "objective"), _objective(stage.get("objective", {})))
    _collect(found, ("split",), {key: value for key, value in spec.get("split", {}).items() if key not in PART})
    return found


def _told(stage: dict) -> dict:
    """A stage without what it says nothing of: a network of its own, weights, a scenario, keys of these."""
    silent = ("architecture", "weights", "scenario")
    told = {key: value for key, value in stage.items() if value is not None or key not in silent}
    weights = told.get("weights")
    if weights is not None:
        told["weights"] = {key: value for key, value in weights.items() if value is not None and key != "digest"}
    return told


def differing(settings: dict[str, dict[Path, object]], varied: Set[Path] = frozenset()) -> list[Path]:
    """The paths in which candidates that have them differ, one for those that always carry the same value.

    varied: as for `distinct_names`.
    """
    kept: list[Path] = []
    for path in dict.fromkeys(path for found in settings.values() for path in found):
        values = [found[path] for found in settings.values() if path in found]
        optional = (is_term(path) or path in varied) and len(values) < len(settings)
        if (optional or len({canonical_json(value) for value in values}) > 1) and not any(
            _same(path, other, settings.values()) for other in kept
        ):
            kept.append(path)
    return kept


def path_labels(paths: list[Path], last_stage: str) -> dict[Path, str]:
    """A short label for each path: its key, after the stage's name where another path has the same key."""
    keys = {path: _key(path) for path in paths}
    counted = list(keys.values())
    ambiguous = {path for path in paths if counted.count(keys[path]) > 1 and path[0] != last_stage and len(path) > 1}
    return {path: f"{path[0]} {key}" if path in ambiguous else key for path, key in keys.items()}


def value_text(value) -> str:
    """A setting's value for reading: 0.001, 1e-05, all classes and lists without quotes."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "+".join(map(value_text, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)


def _taught_by(trial: dict) -> str:
    """How the stage before the last learned, where that was without labels."""
    before = trial["spec"]["stages"][:-1]
    if not before or before[-1].get("targets") or _start(trial) == "scratch":
        return ""
    primary = before[-1].get("objective", {}).get("primary")
    return f" after {class_name(primary)}" if primary else ""


def _objective(objective: dict) -> dict:
    """An objective without what it says nothing of; a weight that moves is one word."""
    told = {key: value for key, value in objective.items() if value is not None}
    if told.get("primary_weight") == 1:
        del told["primary_weight"]
    if isinstance(told.get("primary_weight"), dict):
        told["primary_weight"] = _ramp(told["primary_weight"])
    return told | {"auxiliary": [_term(term) for term in told.get("auxiliary", [])]}


def _term(term: dict) -> dict:
    told = {key: value for key, value in term.items() if value is not None}
    return told | ({"weight": _ramp(told["weight"])} if isinstance(told.get("weight"), dict) else {})


def _ramp(weight: dict) -> str:
    until = "" if weight["until"] == 1 else f" by {weight['until']:g}"
    return f"{weight['start']:g} to {weight['end']:g}{until} ({weight['ramp']})"


def _start(trial: dict) -> str:
    spec, last = trial["spec"], trial["spec"]["stages"][-1]
    if is_fitted(spec["architecture"]):
        return "fitted"
    published = (last.get("weights") or {}).get("path") is not None
    return last.get("strategy") or "full" if trial["init"] or published else "scratch"


def _collect(found: dict, path: Path, value) -> None:
    if isinstance(value, dict) and "class_path" in value:
        if value["class_path"] is not None:
            found[path] = class_name(value)
        others = {key: item for key, item in value.items() if key not in ("class_path", "init_args")}
        value = others | value.get("init_args", {})
    if isinstance(value, dict):
        for key, item in value.items():
            _collect(found, (*path, key), item)
    elif isinstance(value, list) and value and all(isinstance(item, dict) and "class_path" in item for item in value):
        for name, item in zip(term_names(value), value):
            _collect(found, (*path, name), item)
    elif path[-1] not in LISTS:
        found[path] = value


def is_term(path: Path) -> bool:
    """Whether this is the name of an auxiliary term, an augmentation or a callback, present or absent, and no value."""
    return len(path) > 1 and path[-2] in LISTS


def _same(path: Path, other: Path, settings) -> bool:
    pairs = [(found[path], found[other]) for found in settings if path in found and other in found]
    return _key(path) == _key(other) and bool(pairs) and all(one == two for one, two in pairs)


def _key(path: Path) -> str:
    words = path[-2:] if LISTS & set(path[:-2]) else path[-1:]
    return " ".join(words).replace("_", " ")


def _name(found: dict, paths: list[Path], labels: dict[Path, str]) -> str:
    shown = [path for path in paths if path in found]
    parts = [_part(path, found[path], labels) for path in shown if not _implied(path, shown)]
    return ", ".join(filter(None, parts))


def _implied(path: Path, shown: list[Path]) -> bool:
    """A class of a list is named by its own arguments where they are shown."""
    return is_term(path) and any(len(other) > len(path) and other[: len(path)] == path for other in shown)


def _part(path: Path, value, labels: dict[Path, str]) -> str:
    if value is None:
        return "n all" if path[-1] == "n" else f"no {labels[path]}"
    if path[-1] == "tuning":
        return " + ".join(value)
    if path == ("strategy",) or path[-1] in CLASSES or is_term(path):
        return str(value)
    return f"{labels[path]} {value_text(value)}"


def _told_apart(name: str, alike: list[str], settings: dict, labels: dict[Path, str]) -> dict[str, str]:
    """Names for candidates that differ only in what some of them leave at its default."""
    paths = list(dict.fromkeys(path for candidate in alike for path in settings[candidate]))
    absent = [path for path in paths if not all(path in settings[candidate] for candidate in alike)]
    labels = {path: _key(path) for path in absent} | labels
    names = {c: ", ".join(filter(None, [name, _name(settings[c], absent, labels)])) for c in alike}
    repeated = {text for text in names.values() if list(names.values()).count(text) > 1}
    return {c: f"{text} ({c[:6]})" if text in repeated else text for c, text in names.items()}
