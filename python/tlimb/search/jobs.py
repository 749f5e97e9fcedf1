"""What each training task is given: a folder with its specs and just the rows of the cohort that it may see."""

from pathlib import Path

import pandas as pd

from tlimb.files import digest, write_json, write_jsonl, write_parquet
from tlimb.labels import ONE_CLASS, classes_of, signed_times
from tlimb.search.named_files import weights_paths
from tlimb.search.scans import SECOND, TRAINING, as_text, labels_of, term_columns, with_cohort
from tlimb.search.suggest import Proposal

FACTS = ["split", "scan_id", "person", "role", "times"]


def write_round(
    folder, proposal: Proposal, table: pd.DataFrame, summary: dict, trials_per_task: int, licence: str | None = None
) -> None:
    """Write trials.jsonl, pretrainings.jsonl, splits.parquet and a job folder for each pretraining and pack.

    summary: as cohort.json. licence: of the weights that the tasks make.
    """
    folder, labels = Path(folder), with_cohort(summary["labels"], table)
    write_jsonl(folder / "trials.jsonl", proposal.trials)
    write_jsonl(folder / "pretrainings.jsonl", proposal.pretrainings)
    write_parquet(folder / "splits.parquet", proposal.splits[["split", "scan_id", "role", "times"]])
    labelled = proposal.splits.merge(_class_names(table, labels).drop(columns=["person"]), on="scan_id")
    rows = dict(iter(labelled.sort_values(["split", "scan_id"]).groupby("split")))
    for line in proposal.pretrainings:
        job = {"id": line["id"], "kind": "pretrain", "level": line["level"], "parent": line["parent"], "inits": []}
        job |= {"pretraining": line, "licence": licence}
        job |= {"files": _files([line["spec"]["stage"]], summary["files"])}
        _write_job(folder / "jobs" / line["id"], job, rows[line["split"]], line["spec"]["stage"], labels)
    for pack in packs(proposal.trials, trials_per_task):
        inits = sorted({trial["init"] for trial in pack} - {""})
        identity = digest([trial["id"] for trial in pack])
        job = {"id": identity, "kind": "finetune", "level": 0, "parent": "", "inits": inits, "trials": pack}
        job |= {"licence": licence}
        job |= {"files": _files([trial["spec"]["stages"][-1] for trial in pack], summary["files"])}
        _write_job(folder / "jobs" / identity, job, rows[pack[0]["split"]], pack[0]["spec"]["stages"][-1], labels)


def packs(trials: list[dict], size: int) -> list[list[dict]]:
    """Trials in groups of at most `size` that share recipe, split, label columns, devices and seed; those from scratch,
    which wait for nothing, apart. So no trial's labels and classes depend on its neighbours.
    """
    groups: dict[tuple, list[dict]] = {}
    for trial in trials:
        stage = trial["spec"]["stages"][-1]
        known = tuple(labels_of(stage)), tuple(term_columns(stage))
        alike = (stage["data"]["recipe"], trial["split"], known, stage["trainer"]["devices"], trial["spec"]["seed"])
        groups.setdefault((*alike, trial["init"] == ""), []).append(trial)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def _files(stages: list[dict], known: dict) -> list[dict]:
    """The files that some stages start from: path as the sweep writes it, digest, place."""
    named = weights_paths(stages)
    return [{"path": path, **known[path]} for path in sorted(named)]


def _write_job(folder: Path, job: dict, rows: pd.DataFrame, stage: dict, labels: dict) -> None:
    targets = _facts(stage["targets"], rows[~rows["role"].isin(SECOND)], labels)
    hidden = rows["role"].isin(SECOND)
    masked = rows.assign(**{name: rows[name].mask(hidden) for name in stage["targets"]})
    columns = _facts(term_columns(stage), masked[rows["role"].isin(TRAINING)], labels)
    shards = sorted(set(rows["chunk"]))
    write_json(folder / "job.json", job | {
        "recipe": stage["data"]["recipe"], "shards": shards, "labels": targets, "columns": columns,
        "devices": stage["trainer"]["devices"],
    })  # fmt: skip
    known = labels_of(stage)
    rows = masked[[*FACTS, *dict.fromkeys([*known, *columns])]]
    unseen = ~(rows["role"].isin(["train", "validation"]) | hidden)
    if job["kind"] == "pretrain":
        write_parquet(folder / "table.parquet", rows)
        return
    masked = {name: rows[name].mask(unseen) for name in rows.columns if name not in FACTS}
    write_parquet(folder / "table.parquet", rows.assign(**masked))
    write_parquet(folder / "table-validation.parquet", rows[rows["role"] == "validation"])
    write_parquet(folder / "table-test.parquet", rows[unseen])


def _facts(names: list[str], rows: pd.DataFrame, labels: dict) -> dict:
    """Kind and classes of some label columns, the classes that are among the rows in their order."""
    found = {}
    for name in names:
        present = classes_of(rows[name], labels[name]["kind"])
        classes = [one for one in labels[name]["classes"] if one in present]
        found[name] = {"kind": labels[name]["kind"], "classes": classes}
    return found


def _class_names(table: pd.DataFrame, labels: dict) -> pd.DataFrame:
    """The cohort's table without what training does not need: classes as text (1.0 as "1"), and times until which an
    event was not seen negative, so that whoever is shown a time is shown the event with it."""
    known = table[["scan_id", "person", *labels]].copy()
    for name, label in labels.items():
        if label["kind"] in ONE_CLASS:
            known[name] = as_text(known[name])
        elif label["kind"] == "survival":
            known[name] = signed_times(table[name], table[label["event"]])
    return known
