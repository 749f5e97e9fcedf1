"""What each training task is given: a folder with its specs and just the rows of the cohort that it may see."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from tlimb.evaluate_settings import Evaluate
from tlimb.files import canonical_json, digest, replacing, write_jsonl, write_parquet, write_text
from tlimb.search.named_files import weights_paths
from tlimb.search.scans import SECOND, labels_of, term_columns
from tlimb.search.split_rows import FACTS, SplitRows, table_key
from tlimb.search.starts import encoder_of, published_start
from tlimb.search.suggest import Proposal


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
    folder, rows = Path(folder), SplitRows(proposal.splits, table, summary["labels"])
    jobs = _Jobs(folder / "jobs", rows, summary["files"], licence)
    write_jsonl(folder / "trials.jsonl", proposal.trials)
    write_jsonl(folder / "pretrainings.jsonl", proposal.pretrainings)
    write_parquet(folder / "splits.parquet", proposal.splits[["split", "scan_id", "role", "times"]])
    for line in proposal.pretrainings:
        jobs.write_pretraining(line)
    for pack in packs(proposal, trials_per_task, rows):
        jobs.write_pack(pack)
    for probe in probes(proposal):
        jobs.write_probe(*probe, evaluate)


def packs(proposal: Proposal, size: int, rows: SplitRows) -> list[list[dict]]:
    """Trials in groups of at most `size` that share recipe, label columns, the classes among their scans, devices,
    seed, budget and the people held out; those from scratch, which wait for nothing, apart, and those that begin from
    those that go on. Splits that hold out the same people, as bootstrap samples of all sizes do, may share a pack: it
    is told the label of nobody on whom one of its trials is tested, and no trial's classes depend on its neighbours.
    rows: of the proposal's splits.
    """
    held, groups = _held_out(proposal.splits), {}
    for trial in proposal.trials:
        stage = trial["spec"]["stages"][-1]
        known = tuple(labels_of(stage)), tuple(term_columns(stage))
        data = stage["data"]["recipe"], held[trial["split"]], known, rows.classes_of(trial)
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


def probes(proposal: Proposal) -> Iterator[tuple[dict, list[str], list[str], list[dict]]]:
    """(last stage, splits, encoders of pretrainings, those from published weights) of the tasks that score encoders
    before fine-tuning: splits on which the same ones are scored for the same target share a task. An encoder is shown
    scans of the recipe of the trials that start from it, which follows from its id."""
    stages = {encoder_of(trial): trial["spec"]["stages"][-1] for trial in proposal.trials}
    published = [published_start(trial["spec"]) for trial in proposal.trials if not trial["init"]]
    starts = {start["id"]: start for start in published if start}
    alike: dict[tuple, list[str]] = {}
    for split, ids in proposal.probes.items():
        for identity in ids:
            stage = stages[identity]
            alike.setdefault((split, stage["data"]["recipe"], stage["targets"][0]), []).append(identity)
    groups: dict[tuple, list[str]] = {}
    for (split, recipe, target), ids in alike.items():
        groups.setdefault((recipe, target, tuple(ids)), []).append(split)
    for (_, _, ids), splits in groups.items():
        inits = [identity for identity in ids if identity not in starts]
        yield stages[ids[0]], splits, inits, [starts[identity] for identity in ids if identity in starts]


class _Jobs:
    """Writes job folders. Tables that several jobs have in common are made once and linked."""

    def __init__(self, folder: Path, rows: SplitRows, files: dict, licence: str | None):
        self.folder, self.rows, self.files, self.licence = folder, rows, files, licence
        self._made: dict[str, tuple[dict, Path]] = {}

    def write_pretraining(self, line: dict) -> None:
        """The folder of one pretraining."""
        stage = line["spec"]["stage"]
        job = {"id": line["id"], "kind": "pretrain", "level": line["level"], "parent": line["parent"], "inits": []}
        self._write(job | {"pretraining": line}, [line["split"]], stage, [stage])

    def write_pack(self, pack: list[dict]) -> None:
        """The folder of a pack of trials."""
        inits = sorted({trial["init"] for trial in pack} - {""})
        identity = digest([[trial["id"], trial["budget"]] if "continues" in trial else trial["id"] for trial in pack])
        job = {"id": identity, "kind": "finetune", "level": 0, "parent": "", "inits": inits, "trials": pack}
        stages = [trial["spec"]["stages"][-1] for trial in pack]
        self._write(job, sorted({trial["split"] for trial in pack}), stages[0], stages)

    def write_probe(
        self, stage: dict, splits: list[str], inits: list[str], starts: list[dict], evaluate: Evaluate
    ) -> None:
        """The folder of a task that scores encoders: training and validation people of some splits with their target,
        and the label columns by which their features are harmonised."""
        target = stage["targets"][0]
        extra = [name for name in dict.fromkeys([evaluate.harmonise, *evaluate.keeping]) if name]
        rows = self.rows.of_all(sorted(splits))
        rows = rows[rows["role"].isin(["train", "validation"])]
        encoders = [*inits, *(start["id"] for start in starts)]
        identity = digest(["probe", target, extra, sorted(splits), encoders])
        job = {"id": identity, "kind": "probe", "level": 0, "parent": "", "starts": starts}
        job |= {"inits": inits, "recipe": stage["data"]["recipe"], "target": target}
        job |= {"shards": sorted(set(rows["chunk"]))}
        job |= {"labels": self.rows.facts([target], rows), "columns": self.rows.facts(extra, rows)}
        folder = self.folder / job["id"]
        _write_job(folder, job | {"devices": 1, "files": self._files(starts), "licence": None})
        write_parquet(folder / "table.parquet", rows[[*FACTS, *dict.fromkeys([target, *extra])]])

    def _write(self, job: dict, splits: list[str], stage: dict, stages: list[dict]) -> None:
        """A job folder; `stages` start from weights whose files the job names."""
        key = job["kind"] + table_key(splits, stage)
        folder = self.folder / job["id"]
        if key not in self._made:
            rows = self.rows.of_all(splits)
            seen, facts = self.rows.seen(rows, stage)
            _write_tables(folder, job["kind"], seen)
            self._made[key] = facts | {"shards": sorted(set(rows["chunk"]))}, folder
        facts, first = self._made[key]
        for table in sorted(first.glob("table*.parquet")) if first != folder else ():
            _link(table, folder / table.name)
        about = {"recipe": stage["data"]["recipe"], "devices": stage["trainer"]["devices"]}
        job = job | facts | about | {"files": self._files(stages), "licence": self.licence}
        _write_job(folder, job)

    def _files(self, starting: list[dict]) -> list[dict]:
        """The files of the weights that stages or encoders start from."""
        return [{"path": path, **self.files[path]} for path in sorted(weights_paths(starting))]


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


def _write_tables(folder: Path, kind: str, rows: pd.DataFrame) -> None:
    """Write the tables of a job."""
    if kind == "pretrain":
        write_parquet(folder / "table.parquet", rows)
        return
    unseen = ~rows["role"].isin(["train", "validation", *SECOND])
    blanked = {name: rows[name].mask(unseen) for name in rows.columns if name not in FACTS}
    write_parquet(folder / "table.parquet", rows.assign(**blanked))
    write_parquet(folder / "table-validation.parquet", rows[rows["role"] == "validation"])
    write_parquet(folder / "table-test.parquet", rows[unseen])
