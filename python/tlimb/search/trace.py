"""What Nextflow noted of the tasks of a run: pipeline_info/trace.txt."""

import csv
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tlimb.durations import read_duration, read_size

NEEDED = ("name", "status", "submit", "realtime")
DONE = ("COMPLETED", "CACHED")


@dataclass(frozen=True)
class Task:
    """A task that ended. process: its name without number and workflows. seconds: of its work, without waiting; memory:
    at most, in bytes, 0 where unknown; cached: whether an earlier run did it."""

    process: str
    submitted: datetime
    seconds: float
    memory: float
    cached: bool


@dataclass(frozen=True)
class Failure:
    """A task that failed and did not end well later. place: the start of its folder in the work directory, as Nextflow
    tells it; status: its exit status, `-` where it has none."""

    name: str
    place: str
    status: str


@dataclass(frozen=True)
class Trace:
    """The tasks of a run that ended well, and those that failed in the end."""

    tasks: list[Task]
    failures: list[Failure] = field(default_factory=list)

    def of(self, *processes: str) -> list[Task]:
        """Those of some processes."""
        return [task for task in self.tasks if task.process in processes]

    def mean(self, process: str) -> float | None:
        """Seconds of a task of a process, None where none is known."""
        found = [task.seconds for task in self.of(process)]
        return sum(found) / len(found) if found else None

    @property
    def at_once(self) -> float:
        """How many tasks ran at a time, on average, while any did; 1 where nothing ran."""
        return self.at_once_of(*{task.process for task in self.tasks})

    def at_once_of(self, *processes: str) -> float:
        """The same of the tasks of some processes."""
        spans = sorted((task.submitted.timestamp(), task.seconds) for task in self.of(*processes) if not task.cached)
        busy = end = 0.0
        for begin, seconds in spans:
            busy += max(0.0, begin + seconds - max(begin, end))
            end = max(end, begin + seconds)
        return max(1.0, sum(seconds for _, seconds in spans) / busy) if busy else 1.0

    @property
    def memory(self) -> float:
        """The most memory that a task took, in bytes."""
        return max((task.memory for task in self.tasks), default=0.0)


def read_trace(path: Path) -> Trace | None:
    """The trace at `path`; None where there is none, or none with the columns that are needed."""
    if not path.is_file():
        return None
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if not set(NEEDED) <= set(rows.fieldnames or []):
            return None
        lines = list(rows)
    tasks = [_task(row) for row in lines]
    return Trace([task for task in tasks if task is not None], _failures(lines))


def _failures(rows: list[dict]) -> list[Failure]:
    """The last failure of each task that no other attempt made good."""
    done = {row["name"] for row in rows if row["status"] in DONE}
    failed = [row for row in rows if row["status"] == "FAILED" and row["name"] not in done]
    last = {row["name"]: Failure(row["name"], row.get("hash") or "", row.get("exit") or "-") for row in failed}
    return list(last.values())


def _task(row: dict) -> Task | None:
    """A row's task; None for one that failed, and for a row that is still being written."""
    seconds = read_duration(row["realtime"] or "")
    if row["status"] not in DONE or seconds is None:
        return None
    try:
        submitted = datetime.fromisoformat(row["submit"])
    except ValueError:
        return None
    process = re.sub(r"_\d+$", "", row["name"].split(" (")[0].split(":")[-1])
    memory = read_size(row.get("peak_rss") or "") or 0.0
    return Task(process, submitted, seconds, memory, row["status"] == "CACHED")
