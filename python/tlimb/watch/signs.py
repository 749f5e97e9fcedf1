"""Whether a run still goes on, told from what Nextflow and its tasks have left in the outdir.

Nextflow writes pipeline_info/timeline.html after the last line of trace.txt, when a run ends: well, by a task that
failed, or by Ctrl-C. Of one that was killed, or whose machine went down, only the silence is left.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tlimb.durations import duration_text
from tlimb.search.trace import Failure, Trace

RETRIED = {*map(str, range(130, 146)), "104", "175"}
"""Exit statuses after which a task is started again, as conf/base.config has it."""
LAST = "RANK"
QUIET = 3600.0
"""Seconds of silence that are no wonder."""
AGAIN = "start it again with -resume"


@dataclass(frozen=True)
class Signs:
    """ended: Nextflow has come to its end. ranked: so has the last step of the run. failure: of the task that ends it,
    or has. silent: seconds since anything was written, None where nothing was. longest: seconds of the longest task."""

    ended: bool = False
    ranked: bool = False
    failure: Failure | None = None
    silent: float | None = None
    longest: float = 0.0

    @property
    def stopped(self) -> bool:
        """Whether the run has ended before its last step."""
        return self.ended and not self.ranked

    @property
    def told(self) -> str:
        """What is wrong in words; empty where nothing seems to be."""
        if self.stopped:
            return f"the run stopped{_because(self.failure)}; {AGAIN}"
        if self.failure is not None and not self.ended:
            return f"the run will stop when its running tasks are done{_because(self.failure)}; then {AGAIN}"
        if not self.ended and self.silent is not None and self.silent > max(QUIET, 2 * self.longest):
            silence = f"nothing has been written for {duration_text(self.silent)}"
            return f"{silence}; a long task may still run, but if Nextflow runs no more, {AGAIN}"
        return ""


def signs_of(results: Path, trace: Trace | None, written: Iterable[float], now: float) -> Signs:
    """The signs of the run that writes to `results`. written: times of files known there; now: seconds since 1970."""
    info = results / "pipeline_info"
    traced, drawn = _time(info / "trace.txt"), _time(info / "timeline.html")
    ended = None not in (traced, drawn) and drawn >= traced
    newest = max([*written, *(time for time in (traced, drawn) if time is not None)], default=None)
    tasks, failures = (trace.tasks, trace.failures) if trace else ([], [])
    final = [one for one in failures if one.status not in RETRIED] or (failures if ended else [])
    return Signs(
        ended,
        any(task.process == LAST for task in tasks),
        final[0] if final else None,
        None if newest is None else max(0.0, now - newest),
        max((task.seconds for task in tasks), default=0.0),
    )


def _time(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _because(failure: Failure | None) -> str:
    if failure is None:
        return ""
    name, place = failure.name.split(":")[-1], f"[{failure.place}] " if failure.place else ""
    status = "" if failure.status == "-" else f" with status {failure.status}"
    return f" (task {place}{name} failed{status})"
