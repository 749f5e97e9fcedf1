"""Everything that a search left on disk, as RANK reads it."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tlimb.errors import InputError, Problem
from tlimb.files import read_json, read_jsonl

KEY = ("seed", "repeat", "fold", "inner_fold", "replicate")
"""What two trials must share to be compared: they start alike and are measured on the same people."""


def key_of(outcome: dict) -> tuple:
    """The values of KEY of a trial as it stands in ranking.json."""
    return tuple(outcome[name] for name in KEY)


@dataclass(frozen=True)
class Results:
    """The files of a finished search; scores, predictions and histories are read when asked for.

    trials, pretrainings: lines of the search's files, the last round's where an id stands in several.
    scans: rows of all shards with their recipe. stores: recipe -> header of its first shard.
    encoders, models: id -> encoder.json, model.json.
    """

    sweep: dict
    cohort: dict
    trials: list[dict]
    pretrainings: list[dict]
    scans: pd.DataFrame
    stores: dict[str, dict]
    encoders: dict[str, dict]
    models: dict[str, dict]
    encoders_folder: Path
    models_folder: Path
    scores_folder: Path

    def scores(self, trial: str, name: str) -> dict | None:
        """scores-<name>.json of a trial, None where it was never written."""
        path = self.scores_folder / trial / f"scores-{name}.json"
        return read_json(path) if path.exists() else None

    def predictions(self, trial: str, name: str, target: str) -> pd.DataFrame:
        """Rows of predictions-<name>.parquet for `target` that have a truth; InputError where the file is missing."""
        path = self.scores_folder / trial / f"predictions-{name}.parquet"
        if not path.exists():
            raise InputError([Problem(str(path), "file not found, though the trial's scores say that it is there")])
        rows = pd.read_parquet(path)
        return rows[(rows["target"] == target) & rows["truth"].notna()]

    def tables(self, outcomes: list[dict], name: str, target: str) -> dict[tuple, pd.DataFrame]:
        """Key -> predictions on set `name` of those trials of ranking.json that finished and have scores there."""
        scored = [
            outcome
            for outcome in outcomes
            if outcome["status"] == "ok" and (self.scores(outcome["id"], name) or {}).get("status") == "ok"
        ]
        return {key_of(outcome): self.predictions(outcome["id"], name, target) for outcome in scored}

    def pretraining_scores(self, encoder: str) -> dict | None:
        """scores.json of a pretrained encoder, None where there is none."""
        path = self.encoders_folder / encoder / "scores.json"
        return read_json(path) if path.exists() else None

    def model_history(self, trial: str) -> pd.DataFrame | None:
        """history.csv of a trial, None where it has none."""
        return _history(self.models_folder / trial)

    def encoder_history(self, encoder: str) -> pd.DataFrame | None:
        """history.csv of a pretraining, None where it has none."""
        return _history(self.encoders_folder / encoder)


def read_results(
    *, sweep: Path, cohort: Path, search: Path, store: Path, encoders: Path, models: Path, scores: Path
) -> Results:
    """Read what a search left.

    sweep, cohort: sweep.json and cohort.json. search: holds round-<k>/. store: holds <recipe>/shard-*.
    encoders, models, scores: hold a folder for each id; a missing one counts as empty.
    Raises InputError naming every missing or unreadable file.
    """
    rounds = sorted(search.glob("round-*"), key=lambda path: int(path.name.removeprefix("round-")))
    trials = _lines(rounds, "trials.jsonl")
    if not trials:
        raise InputError([Problem(str(search), "holds no trial; expected round-<k>/trials.jsonl")])
    scans, stores = _read_stores(store)
    return Results(
        sweep=read_json(sweep),
        cohort=read_json(cohort),
        trials=trials,
        pretrainings=_lines(rounds, "pretrainings.jsonl"),
        scans=scans,
        stores=stores,
        encoders=_documents(encoders, "encoder.json"),
        models=_documents(models, "model.json"),
        encoders_folder=encoders,
        models_folder=models,
        scores_folder=scores,
    )


def _lines(rounds: list[Path], name: str) -> list[dict]:
    rows = [row for folder in rounds if (folder / name).exists() for row in read_jsonl(folder / name)]
    return list({row["id"]: row for row in rows}.values())


def _documents(folder: Path, name: str) -> dict[str, dict]:
    documents, problems = {}, []
    for path in sorted(folder.glob(f"*/{name}")):
        try:
            documents[path.parent.name] = read_json(path)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return documents


def _read_stores(folder: Path) -> tuple[pd.DataFrame, dict[str, dict]]:
    shards, headers = [], {}
    for path in sorted(folder.glob("*/shard-*.parquet")):
        shards.append(pd.read_parquet(path).assign(recipe=path.parent.name))
        headers.setdefault(path.parent.name, read_json(path.with_suffix(".json")))
    if not shards:
        raise InputError([Problem(str(folder), "holds no store; expected <recipe>/shard-*.parquet")])
    return pd.concat(shards, ignore_index=True), headers


def _history(folder: Path) -> pd.DataFrame | None:
    path = folder / "history.csv"
    return pd.read_csv(path) if path.exists() else None
