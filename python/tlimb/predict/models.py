"""The models that predict: which folders were named, and whether they can work here and together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from tlimb.errors import InputError, Problem
from tlimb.files import read_json
from tlimb.preprocess.recipe import KEYS, fingerprint

BEGUN = ("cohort/cohort.json", "pipeline_info/trace.txt")
"""Files of a run's results, one of which is there long before its ranking is."""

TOGETHER = ("recipe", "regions", "fingerprint")
"""What in model.json all models of an ensemble must share, beside their targets."""


@dataclass(frozen=True)
class Models:
    """Models that predict together, in their order.

    facts: model.json of each. recipe: how scans are prepared for all of them.
    """

    folders: list[Path]
    facts: list[dict]
    recipe: SimpleNamespace

    @property
    def modality(self) -> list[str]:
        """The modalities that training was restricted to, none where it took any."""
        return sorted({name for facts in self.facts for name in _labelled(facts).get("modality") or []})

    @property
    def targets(self) -> dict:
        """Target -> its facts, of the first model; kind and classes are those of all."""
        return self.facts[0]["targets"]


def parted(paths: Sequence[Path]) -> tuple[list[Path], list[Path], list[str]]:
    """Folders of models, everything else, and what was chosen in words.

    A model is a folder with model.json. The folder of a run's results stands for the models of the candidate that it
    ranked best. Raises InputError where no model is among the paths, or a run is not ranked or has none that finished.
    """
    models, others, notes, problems = [], [], [], []
    for path in map(Path, paths):
        if (path / "model.json").is_file():
            models.append(path)
        elif (path / "ranking" / "ranking.json").is_file():
            found, said = _best_of(path)
            models += found
            notes.append(said)
        elif any((path / name).is_file() for name in BEGUN):
            problems.append(_unranked(path))
        else:
            others.append(path)
    if problems:
        raise InputError(problems)
    if not models:
        hint = "name a folder with model.json, results/models/<trial>, or the folder of a run's results"
        raise InputError([Problem(", ".join(map(str, others)) or "models", "no model is among these", hint)])
    return list(dict.fromkeys(models)), others, notes


def _unranked(results: Path) -> Problem:
    """What is missing of a run of which no ranking is there yet, and what to do."""
    done = sum(1 for _ in results.glob("models/*/model.json"))
    models = f"{done} trained model{'' if done == 1 else 's'} in {results / 'models'}"
    trained = models if done else "no trained model yet"
    message = f"is the folder of a run that has not been ranked: no ranking/ranking.json is there, and {trained}"
    hint = f"`tlimb watch {results}` says how far it is; start it again with -resume if it stopped"
    return Problem(str(results), message, hint + (", or name one of its models" if done else ""))


def _best_of(results: Path) -> tuple[list[Path], str]:
    ranking = read_json(results / "ranking" / "ranking.json")
    best = next((row for row in ranking["candidates"] if row["candidate"] == ranking["best"]), None)
    done = [trial["id"] for trial in best["trials"] if trial["status"] == "ok"] if best else []
    folders = [results / "models" / name for name in done if (results / "models" / name / "model.json").is_file()]
    if not folders:
        message = f"no model of its best candidate stands in {results / 'models'}"
        raise InputError([Problem(str(results / "ranking" / "ranking.json"), message)])
    words = f"{results}: the candidate ranked best on validation, {best['name']}: "
    return folders, words + (f"{len(folders)} models, averaged" if len(folders) > 1 else "1 model")


def read_models(folders: Sequence[Path], atlas: Path | None = None) -> Models:
    """What model.json says in these folders; no weights are read.

    atlas: the file that stands for the atlas of a recipe of time series. Raises InputError naming every model that
    failed, was trained on scans prepared otherwise than this installation would, or does not go with the first.
    """
    problems, facts = [], []
    for folder in folders:
        try:
            facts.append(read_json(folder / "model.json"))
        except InputError as error:
            problems += error.problems
            continue
        problems += _own_problems(folder, facts[-1], atlas)
    if not problems:
        problems = [problem for folder, one in zip(folders, facts) for problem in _misfits(folder, one, facts[0])]
    if problems:
        raise InputError(problems)
    return Models(list(folders), facts, SimpleNamespace(**facts[0]["recipe"]))


def _own_problems(folder: Path, facts: dict, atlas: Path | None) -> list[Problem]:
    if facts.get("status") != "ok":
        return [Problem(str(folder), f"its training failed: {facts.get('reason') or 'unknown why'}")]
    if not (folder / "model.safetensors").is_file():
        return [Problem(str(folder / "model.safetensors"), "file not found")]
    recipe = facts["recipe"]
    keys = KEYS.get(recipe.get("kind"), ())
    made = f"it was made with tlimb {facts['made_with']['tlimb']}"
    if set(keys) != set(recipe):
        differing = ", ".join(sorted(set(keys) ^ set(recipe)))
        message = f"its scans were prepared by other settings than this version of tlimb knows: {differing}"
        return [Problem(str(folder), message, made)]
    try:
        own = fingerprint(SimpleNamespace(**recipe), _atlas_digest(recipe, atlas))
    except InputError as error:
        return [Problem(f"{folder}: {problem.where}", problem.message, problem.hint) for problem in error.problems]
    if own == facts["fingerprint"]:
        return []
    which = "atlas or version" if recipe["kind"] == "series" else "template or version"
    message = f"was trained on scans prepared otherwise ({facts['fingerprint']}) than here ({own}): another {which}"
    return [Problem(str(folder), f"{message} of the preprocessing code", made)]


def _atlas_digest(recipe: dict, atlas: Path | None) -> str:
    if recipe["kind"] != "series":
        return ""
    from tlimb.preprocess.atlas import load_atlas

    return load_atlas(str(atlas or recipe["atlas"])).digest


def _misfits(folder: Path, facts: dict, first: dict) -> list[Problem]:
    """Why a model cannot be averaged with the first."""
    differing = [name for name in TOGETHER if facts.get(name) != first.get(name)]
    problems = [Problem(str(folder), f"another {name} than the first model's") for name in differing[:1]]
    one, two = (
        {name: (of["kind"], of["classes"]) for name, of in each["targets"].items()} for each in (facts, first)
    )
    if one != two:
        message = f"predicts {_said(one)}, the first model {_said(two)}"
        problems.append(Problem(str(folder), message, "predict with one after the other"))
    return problems


def _said(targets: dict) -> str:
    return ", ".join(f"{name} ({', '.join(classes) or kind})" for name, (kind, classes) in targets.items())


def _labelled(facts: dict) -> dict:
    """What the last stage's sweep says of the scans that it learned from with labels."""
    data = facts["spec"]["stages"][-1]["data"]
    return data["labelled"] or data["source"] or {}
