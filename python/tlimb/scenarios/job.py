"""A training task's folder, read and checked: what may be seen, and that nobody stands on both sides."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tlimb.data.fingerprint import fingerprint_problems
from tlimb.errors import InputError, Problem
from tlimb.files import read_json
from tlimb.store import Store


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
    """A pretrained encoder's folder and what its encoder.json says."""

    folder: Path
    facts: dict

    @property
    def failed(self) -> str:
        """Why there are no weights; empty where there are."""
        return f"pretraining {self.facts['id']} failed: {self.facts['reason']}" if self.facts["status"] != "ok" else ""


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
    return Pretrained(Path(folder), read_json(Path(folder) / "encoder.json"))


def person_digest(person: str) -> str:
    """The first 12 hexadecimal digits of a person's SHA-256: enough to find a leak, without the name."""
    return hashlib.sha256(person.encode()).hexdigest()[:12]


def check_encoder(encoder: Pretrained, store: Store, rows: pd.DataFrame, roles: set[str], what: str) -> None:
    """That an encoder was made from scans prepared alike and by nobody whom `roles` of `rows` hold out.

    External parts are always held out. Raises InputError saying how the preparation differs, or naming the persons who
    took part in the pretraining.
    """
    if encoder.failed:
        return
    identity, seen = encoder.facts["id"], set(encoder.facts["persons"])
    problems = fingerprint_problems(f"encoder {identity}", encoder.facts, store)
    held_out = rows[rows["role"].isin(roles) | rows["role"].str.startswith("external")]
    for person, role in sorted(set(zip(held_out["person"], held_out["role"]))):
        if person_digest(person) in seen:
            problems.append(Problem(what, f"person {person} of {role} took part in pretraining {identity}"))
    if problems:
        raise InputError(problems)
