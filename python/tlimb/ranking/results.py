"""Everything that a search left on disk, as RANK reads it."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tlimb.errors import InputError, Problem
from tlimb.files import canonical_json, read_json, read_jsonl

KEY = ("seed", "repeat", "fold", "inner_fold", "replicate")
"""What two trials must share to be compared: they start alike and are measured on the same people."""


def key_of(outcome: dict) -> tuple:
    """The values of KEY of a trial as it stands in ranking.json."""
    return tuple(outcome[name] for name in KEY)


@dataclass(frozen=True)
class Results:
    """The files of a finished search; scores, predictions and histories are read when asked for.

    trials, pretrainings: lines of the search's files by id, the last round's where an id stands in several.
    scans: rows of all shards with their recipe. stores: recipe -> header of its first shard.
    encoders, models: id -> encoder.json, model.json, without the digests of persons, which can be many.
    table: cohort.parquet, a row a scan. study: study.json of the last round that has one. explanations, probes: folders
    of what EXPLAIN and PROBE wrote. All four are None where there is none. repeated: lines of trials.jsonl beyond the
    first of an id in a round.
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
    table: pd.DataFrame | None = None
    study: dict | None = None
    explanations: Path | None = None
    probes: Path | None = None
    repeated: int = 0

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

    def external_sets(self) -> list[str]:
        """The names of the sets of cohorts that are only ever tested on, in the sweep's order."""
        return [f"external-{one['cohort']}" for one in self.sweep.get("evaluate", {}).get("external", [])]

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
    *,
    sweep: Path,
    cohort: Path,
    search: Path,
    store: Path,
    encoders: Path,
    models: Path,
    scores: Path,
    table: Path | None = None,
    explanations: Path | None = None,
    probes: Path | None = None,
) -> Results:
    """Read what a search left; the same whatever the order of lines and folders.

    sweep, cohort, table: sweep.json, cohort.json and cohort.parquet. search: holds round-<k>/. store: holds
    <recipe>/shard-*. encoders, models, scores, explanations, probes: hold a folder for each id; a missing one counts as
    empty. Raises InputError naming every missing or unreadable file.
    """
    rounds = sorted(search.glob("round-*"), key=lambda path: int(path.name.removeprefix("round-")))
    trials, repeated = _lines(rounds, "trials.jsonl")
    if not trials:
        raise InputError([Problem(str(search), "holds no trial; expected round-<k>/trials.jsonl")])
    scans, stores = _read_stores(store)
    studies = [folder / "study.json" for folder in rounds if (folder / "study.json").exists()]
    return Results(
        sweep=read_json(sweep),
        cohort=read_json(cohort),
        trials=trials,
        pretrainings=_lines(rounds, "pretrainings.jsonl")[0],
        scans=scans,
        stores=stores,
        encoders=_documents(encoders, "encoder.json"),
        models=_documents(models, "model.json"),
        encoders_folder=encoders,
        models_folder=models,
        scores_folder=scores,
        table=None if table is None else pd.read_parquet(table),
        study=read_json(studies[-1]) if studies else None,
        explanations=_filled(explanations),
        probes=_filled(probes),
        repeated=repeated,
    )


def _lines(rounds: list[Path], name: str) -> tuple[list[dict], int]:
    """The lines of all rounds by id, of several with one id the last round's, there the one with the largest budget;
    and how many lines repeat an id of their own round."""
    found: dict[str, list] = {}
    repeated = 0
    for place, folder in enumerate(rounds):
        for row in read_jsonl(folder / name) if (folder / name).exists() else []:
            known = found.setdefault(row["id"], [place, row])
            if known[1] is not row:
                repeated += known[0] == place
                found[row["id"]] = max(known, [place, row], key=_lateness)
    return [found[key][1] for key in sorted(found)], repeated


def _lateness(line: list) -> tuple:
    place, row = line
    return place, row.get("budget", 0), canonical_json(row)


def _filled(folder: Path | None) -> Path | None:
    return folder if folder is not None and folder.is_dir() and any(folder.iterdir()) else None


def _documents(folder: Path, name: str) -> dict[str, dict]:
    documents, problems = {}, []
    for path in sorted(folder.glob(f"*/{name}")):
        try:
            document = read_json(path)
            documents[path.parent.name] = {key: value for key, value in document.items() if key != "persons"}
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
