"""A training task's folder, read and checked: what may be seen, and that nobody stands on both sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor

from tlimb.architectures.weights import read_weights, select
from tlimb.data.fingerprint import fingerprint_problems
from tlimb.errors import InputError, Problem
from tlimb.files import file_digest, read_json
from tlimb.persons import person_digest
from tlimb.search.named_files import content_digest
from tlimb.store import Store
from tlimb.weights.kinds import tlimb_kind


@dataclass(frozen=True)
class Job:
    """job.json and table.parquet of one task.

    rows: split, scan_id, person, role and the label columns of the job's targets; labels: target -> kind and classes.
    """

    folder: Path
    facts: dict
    rows: pd.DataFrame
    labels: dict

    def split(self, name: str) -> pd.DataFrame:
        """The rows of one split. Raises InputError where it lacks a training or a validation part."""
        rows = self.rows[self.rows["split"] == name].reset_index(drop=True)
        absent = [role for role in ("train", "validation") if role not in set(rows["role"])]
        if absent:
            raise InputError([Problem(f"{self.folder}, split {name}", f"has no {role} part") for role in absent])
        return rows


@dataclass(frozen=True)
class Pretrained:
    """A folder of tlimb with an encoder: of a pretraining (encoder.json) or a whole model (model.json). facts: what its
    JSON says."""

    folder: Path
    facts: dict
    kind: str = "encoder"

    @property
    def failed(self) -> str:
        """Why there are no weights; empty where there are."""
        what = "pretraining" if self.kind == "encoder" else "training"
        return f"{what} {self.facts['id']} failed: {self.facts['reason']}" if self.facts["status"] != "ok" else ""

    @property
    def file(self) -> Path:
        """The file that holds the encoder's weights."""
        return self.folder / f"{self.kind}.safetensors"

    def encoder_weights(self) -> dict[str, Tensor]:
        """The tensors of the encoder by its own names."""
        tensors = read_weights(self.file)
        return tensors if self.kind == "encoder" else select(tensors, "encoder.")

    def head_weights(self, target: str) -> dict[str, Tensor]:
        """The tensors of one head by its own names."""
        if self.kind == "encoder":
            return select(read_weights(self.folder / "heads.safetensors"), f"{target}.")
        return select(read_weights(self.file), f"heads.{target}.")

    def fisher(self) -> dict[str, Tensor] | None:
        """Parameter of the encoder -> the diagonal of its Fisher information, where it was kept."""
        file = self.folder / "fisher.safetensors"
        return read_weights(file) if file.exists() else None

    def digest(self) -> str:
        """Of the weights, the heads among them; empty where there are none."""
        if self.failed:
            return ""
        files = [self.file, self.folder / "heads.safetensors", self.folder / "fisher.safetensors"]
        return "".join(file_digest(file) for file in files if file.exists())


def read_job(folder) -> Job:
    """The job in `folder`. Raises InputError where a person stands in two roles of one split."""
    folder = Path(folder)
    facts, rows = read_json(folder / "job.json"), pd.read_parquet(folder / "table.parquet")
    problems = []
    for split, part in rows.groupby("split"):
        roles = part.groupby("person")["role"].agg(lambda role: ", ".join(sorted(set(role))))
        both = roles[roles.str.contains(",")]
        problems += [Problem(f"split {split}", f"person {person} stands in {where}") for person, where in both.items()]
    if problems:
        raise InputError(problems)
    return Job(folder, facts, rows, facts["labels"])


def read_pretrained(folder) -> Pretrained:
    """The encoder in `folder`, finished or failed."""
    kind = tlimb_kind(folder) or "encoder"
    return Pretrained(Path(folder), read_json(Path(folder) / f"{kind}.json"), kind)


def named_files(job_folder, paths: Sequence[str]) -> dict[str, Path]:
    """The files of a job: path as the sweep writes it -> where it lies now. paths: in the order of job.json's `files`.

    Raises InputError where there are more or fewer than the job names.
    """
    listed = read_json(Path(job_folder) / "job.json")["files"]
    if len(listed) != len(paths):
        message = f"the job names {len(listed)} files, {len(paths)} were given"
        raise InputError([Problem(str(job_folder), message, ", ".join(item["path"] for item in listed))])
    return {item["path"]: Path(path) for item, path in zip(listed, paths, strict=True)}


def require_unchanged(job: Job, files: dict[str, Path]) -> None:
    """That every file of a job is there and is still what it was when the run was planned. Raises InputError."""
    problems = []
    for item in job.facts["files"]:
        name, path = item["path"], files.get(item["path"])
        if path is None or not path.exists():
            problems.append(Problem(name, "the job starts from this file, and it was not given"))
        elif item["digest"] != content_digest(path):
            problems.append(Problem(name, "has changed since the run was planned", "start the run anew"))
    if problems:
        raise InputError(problems)


def start_of(stage: dict, before: Pretrained | None, files: dict[str, Path]) -> Pretrained | None:
    """The encoder of tlimb that a stage starts from: of the folder that its `weights` name, else of the stage before;
    None where it starts from nothing or from weights that others made."""
    if stage["strategy"] == "scratch":
        return None
    if stage["weights"] is None or stage["weights"]["path"] is None:
        return before
    path = files[stage["weights"]["path"]]
    return read_pretrained(path) if tlimb_kind(path) else None


def start_digest(stage: dict, encoder: Pretrained | None, files: dict[str, Path]) -> str:
    """Of everything that a stage starts from: an encoder of tlimb, or the files of its `weights`; else empty."""
    if encoder is not None:
        return encoder.digest()
    if stage["strategy"] == "scratch" or stage["weights"] is None:
        return ""
    named = [name for name in (stage["weights"]["path"], stage["weights"]["map"]) if isinstance(name, str)]
    return "".join(content_digest(files[name]) for name in named if name in files)


def check_encoder(encoder: Pretrained, store: Store, rows: pd.DataFrame, roles: set[str], what: str) -> None:
    """That an encoder was made from scans prepared alike and by nobody whom `roles` of `rows` hold out.

    External parts are always held out. Raises InputError saying how the preparation differs, or naming the persons who
    took part in the pretraining.
    """
    if encoder.failed:
        return
    identity, seen = encoder.facts["id"], set(encoder.facts["persons"])
    problems = fingerprint_problems(f"{encoder.kind} {identity}", encoder.facts, store)
    held_out = rows[rows["role"].isin(roles) | rows["role"].str.startswith("external")]
    for person, role in sorted(set(zip(held_out["person"], held_out["role"]))):
        if person_digest(person) in seen:
            problems.append(Problem(what, f"person {person} of {role} took part in pretraining {identity}"))
    if problems:
        raise InputError(problems)
