"""What each training task is given: a folder with its specs and just the rows of the cohort that it may see."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from tlimb.evaluate_settings import Evaluate
from tlimb.files import canonical_json, digest, replacing, write_jsonl, write_parquet, write_text
from tlimb.labels import ONE_CLASS, classes_of, signed_times
from tlimb.search.named_files import weights_paths
from tlimb.search.scans import SECOND, TRAINING, as_text, labels_of, term_columns, with_cohort
from tlimb.search.suggest import Proposal

FACTS = ["split", "scan_id", "person", "role", "times"]


def write_round(
    folder,
    proposal: Proposal,
    table: pd.DataFrame,
    summary: dict,
    trials_per_task: int,
    licence: str | None = None,
    evaluate: Evaluate = Evaluate(),
) -> None:
    """Write trials.jsonl, pretrainings.jsonl, splits.parquet and a job folder for each pretraining, pack and probe.

    summary: as cohort.json. licence: of the weights that the tasks make.
    """
    folder, jobs = Path(folder), _Jobs(Path(folder) / "jobs", proposal, table, summary, licence)
    write_jsonl(folder / "trials.jsonl", proposal.trials)
    write_jsonl(folder / "pretrainings.jsonl", proposal.pretrainings)
    write_parquet(folder / "splits.parquet", proposal.splits[["split", "scan_id", "role", "times"]])
    for line in proposal.pretrainings:
        jobs.write_pretraining(line)
    for pack in packs(proposal, trials_per_task):
        jobs.write_packs(pack)
    for probe in probes(proposal):
        jobs.write_probe(*probe, evaluate)


def packs(proposal: Proposal, size: int) -> list[list[dict]]:
    """Trials in groups of at most `size` that share recipe, label columns, devices, seed, budget and the people held
    out; those from scratch, which wait for nothing, apart, and those that begin from those that go on. Splits that hold
    out the same people, as bootstrap samples of all sizes do, may share a pack: it is told the label of nobody on whom
    one of its trials is tested.
    """
    held, groups = _held_out(proposal.splits), {}
    for trial in proposal.trials:
        stage = trial["spec"]["stages"][-1]
        known = tuple(labels_of(stage)), tuple(term_columns(stage))
        data = stage["data"]["recipe"], held[trial["split"]], known
        training = stage["trainer"]["devices"], trial["spec"]["seed"], trial["budget"], trial.get("continues")
        groups.setdefault((*data, *training, trial["init"] == ""), []).append(trial)
    ordered = [sorted(group, key=_sample) for group in groups.values()]
    return [group[i : i + size] for group in ordered for i in range(0, len(group), size)]


def _sample(trial: dict) -> tuple[int, int, str]:
    """The order of samples within packs: more of them, or larger ones, come last, so that what is there is kept."""
    split = trial["spec"]["split"]
    return split.get("replicate") or 0, split.get("n") or 0, trial["split"]


def _held_out(splits: pd.DataFrame) -> dict[str, str]:
    """Split -> digest of its scans whose labels training may not see, with their roles."""
    rows = splits[splits["role"] != "train"].sort_values(["split", "role", "scan_id"])
    return {split: digest(part.to_numpy().tolist()) for split, part in rows.groupby("split")[["role", "scan_id"]]}


def probes(proposal: Proposal) -> Iterator[tuple[dict, list[str], list[str]]]:
    """(last stage, splits, encoders) of the tasks that score encoders before fine-tuning: splits on which the same ones
    are scored for the same target share a task."""
    stages = {trial["split"]: trial["spec"]["stages"][-1] for trial in proposal.trials if trial["init"]}
    groups: dict[tuple, list[str]] = {}
    for split, inits in proposal.probes.items():
        stage = stages[split]
        groups.setdefault((stage["data"]["recipe"], stage["targets"][0], tuple(inits)), []).append(split)
    for (_, _, inits), splits in groups.items():
        yield stages[splits[0]], splits, list(inits)


class _Jobs:
    """Writes job folders. Tables that several jobs have in common are made once and linked."""

    def __init__(self, folder: Path, proposal: Proposal, table: pd.DataFrame, summary: dict, licence: str | None):
        self.folder, self.files, self.licence = folder, summary["files"], licence
        self.labels = with_cohort(summary["labels"], table)
        self._known = _class_names(table, self.labels).drop(columns=["person"])
        self._splits = dict(iter(proposal.splits.groupby("split")))
        self._rows: dict[str, pd.DataFrame] = {}
        self._classes: dict[str, str] = {}
        self._made: dict[str, tuple[dict, Path]] = {}

    def write_pretraining(self, line: dict) -> None:
        """The folder of one pretraining."""
        stage = line["spec"]["stage"]
        job = {"id": line["id"], "kind": "pretrain", "level": line["level"], "parent": line["parent"], "inits": []}
        self._write(job | {"pretraining": line}, [line["split"]], stage, [stage])

    def write_packs(self, pack: list[dict]) -> None:
        """The folder of a pack of trials; several where other classes are among the scans of some of its splits, so
        that no trial's classes depend on its neighbours."""
        alike: dict[str, list[dict]] = {}
        for trial in pack:
            alike.setdefault(self._classes_of(trial), []).append(trial)
        for trials in alike.values():
            self._write_pack(trials)

    def _classes_of(self, trial: dict) -> str:
        stage = trial["spec"]["stages"][-1]
        key = _table_key([trial["split"]], stage)
        if key not in self._classes:
            _, facts = _seen(self._rows_of(trial["split"]), stage, self.labels)
            self._classes[key] = canonical_json([facts["labels"], facts["columns"]])
        return self._classes[key]

    def _write_pack(self, pack: list[dict]) -> None:
        inits = sorted({trial["init"] for trial in pack} - {""})
        identity = digest([[trial["id"], trial["budget"]] if "continues" in trial else trial["id"] for trial in pack])
        job = {"id": identity, "kind": "finetune", "level": 0, "parent": "", "inits": inits, "trials": pack}
        stages = [trial["spec"]["stages"][-1] for trial in pack]
        self._write(job, sorted({trial["split"] for trial in pack}), stages[0], stages)

    def write_probe(self, stage: dict, splits: list[str], inits: list[str], evaluate: Evaluate) -> None:
        """The folder of a task that scores encoders: training and validation people of some splits with their target,
        and the label columns by which their features are harmonised."""
        target = stage["targets"][0]
        extra = [name for name in dict.fromkeys([evaluate.harmonise, *evaluate.keeping]) if name]
        rows = pd.concat([self._rows_of(split) for split in sorted(splits)], ignore_index=True)
        rows = rows[rows["role"].isin(["train", "validation"])]
        job = {"id": digest(["probe", target, extra, sorted(splits), inits]), "kind": "probe", "level": 0, "parent": ""}
        job |= {"inits": inits, "recipe": stage["data"]["recipe"], "target": target}
        job |= {"shards": sorted(set(rows["chunk"]))}
        job |= {"labels": _facts([target], rows, self.labels), "columns": _facts(extra, rows, self.labels)}
        folder = self.folder / job["id"]
        _write_job(folder, job | {"devices": 1, "files": [], "licence": None})
        write_parquet(folder / "table.parquet", rows[[*FACTS, *dict.fromkeys([target, *extra])]])

    def _rows_of(self, split: str) -> pd.DataFrame:
        """The rows of a split with all labels."""
        if split not in self._rows:
            rows = self._splits[split].merge(self._known, on="scan_id")
            self._rows[split] = rows.sort_values("scan_id", ignore_index=True)
        return self._rows[split]

    def _write(self, job: dict, splits: list[str], stage: dict, stages: list[dict]) -> None:
        """A job folder; `stages` start from weights whose files the job names."""
        key = job["kind"] + _table_key(splits, stage)
        folder = self.folder / job["id"]
        if key not in self._made:
            rows = pd.concat([self._rows_of(split) for split in splits], ignore_index=True)
            self._made[key] = _write_tables(folder, job["kind"], rows, stage, self.labels), folder
        facts, first = self._made[key]
        for table in sorted(first.glob("table*.parquet")) if first != folder else ():
            _link(table, folder / table.name)
        named = sorted(weights_paths(stages))
        files = [{"path": path, **self.files[path]} for path in named]
        about = {"recipe": stage["data"]["recipe"], "devices": stage["trainer"]["devices"]}
        job = job | facts | about | {"files": files, "licence": self.licence}
        _write_job(folder, job)


def _write_job(folder: Path, job: dict) -> None:
    write_text(folder / "job.json", canonical_json(job) + "\n", synced=False)


def _link(source: Path, path: Path) -> None:
    """The same file at another place, a copy where links cannot be made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:
        with replacing(path, synced=False) as temporary:
            shutil.copyfile(source, temporary)


def _table_key(splits: list[str], stage: dict) -> str:
    """Jobs with the same one have the same tables."""
    return canonical_json([splits, stage["targets"], labels_of(stage), term_columns(stage)])


def _seen(rows: pd.DataFrame, stage: dict, labels: dict) -> tuple[pd.DataFrame, dict]:
    """Rows without the targets that training may not see, and what job.json says of them."""
    hidden = rows["role"].isin(SECOND)
    targets = _facts(stage["targets"], rows[~hidden], labels)
    masked = rows.assign(**{name: rows[name].mask(hidden) for name in stage["targets"]})
    columns = _facts(term_columns(stage), masked[rows["role"].isin(TRAINING)], labels)
    facts = {"shards": sorted(set(rows["chunk"])), "labels": targets, "columns": columns}
    return masked[[*FACTS, *dict.fromkeys([*labels_of(stage), *columns])]], facts


def _write_tables(folder: Path, kind: str, rows: pd.DataFrame, stage: dict, labels: dict) -> dict:
    """Write the tables of a job; returns what job.json says of them."""
    rows, facts = _seen(rows, stage, labels)
    if kind == "pretrain":
        write_parquet(folder / "table.parquet", rows)
        return facts
    unseen = ~rows["role"].isin(["train", "validation", *SECOND])
    blanked = {name: rows[name].mask(unseen) for name in rows.columns if name not in FACTS}
    write_parquet(folder / "table.parquet", rows.assign(**blanked))
    write_parquet(folder / "table-validation.parquet", rows[rows["role"] == "validation"])
    write_parquet(folder / "table-test.parquet", rows[unseen])
    return facts


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
