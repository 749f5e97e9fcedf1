"""How a training goes: its history, its best epoch, and when to stop."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem, nearest
from tlimb.evaluation.metrics import DEFAULT, DIRECTIONS, METRICS


class TrainingFailed(Exception):
    """A training that ends without a model, for a reason that is told as it stands.

    failure: of one that diverged, what is written of it: epoch, step (None where that was after an epoch), values by
    the names of terms (numbers, or "nan", "inf" and "-inf"), and the last_finite ones, with their epoch and step.
    history: rows of the epochs before.
    """

    def __init__(self, message: str, failure: dict | None = None, history: Sequence[dict] = ()):
        super().__init__(message)
        self.failure, self.history = failure, list(history)


@dataclass(frozen=True)
class Monitor:
    """What is measured on the validation part after each epoch, and which of it decides.

    metrics: column of the history -> (target, metric). column: the deciding one. sign: 1 where higher is better, or -1.
    """

    metrics: dict[str, tuple[str, str]]
    column: str
    sign: int


def monitor_of(targets: Sequence[Target], name: str) -> Monitor:
    """The default metric of each target and what the stage's `monitor` names: validation_loss or a metric's column.

    With one target columns are validation_<metric>, with several validation_<target>_<metric>. Raises InputError for a
    monitor that is neither.
    """
    known = {
        _column(targets, target, metric): (target.name, metric) for target in targets for metric in METRICS[target.kind]
    }
    if name != "validation_loss" and name not in known:
        raise InputError(
            [Problem("monitor", f"nothing is called '{name}'", nearest(name, ["validation_loss", *known]))]
        )
    metrics = {
        _column(targets, target, DEFAULT[target.kind]): (target.name, DEFAULT[target.kind]) for target in targets
    }
    if name == "validation_loss":
        return Monitor(metrics, name, -1)
    return Monitor(metrics | {name: known[name]}, name, 1 if DIRECTIONS[known[name][1]] == "max" else -1)


def _column(targets: Sequence[Target], target: Target, metric: str) -> str:
    return f"validation_{metric}" if len(targets) == 1 else f"validation_{target.name}_{metric}"


@dataclass
class Progress:
    """The history so far, what was best in it, and how long nothing has improved.

    history: a row an epoch, or one of epoch 0 where nothing trains. best_epoch: the earliest with the best monitored
    value, 0 where there is none yet; best: that value times the monitor's sign. reference: the value to exceed by more
    than min_delta for patience to be renewed; waited: epochs since it was. stopped: what ended it before the last
    epoch: "early_stopping", "max_hours" or "callback"; empty where nothing did.
    resumed: epochs that tasks before this one trained.
    """

    history: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    best: float | None = None
    reference: float | None = None
    waited: int = 0
    stopped: str = ""
    resumed: int = 0

    @property
    def epochs_run(self) -> int:
        """The number of epochs trained so far."""
        return sum(row["epoch"] > 0 for row in self.history)

    def record(self, row: dict, monitor: Monitor, early_stopping: dict | None) -> bool:
        """Add an epoch's row; whether it is the best so far. A monitored value that is NaN is no improvement."""
        self.history.append(row)
        value = monitor.sign * row[monitor.column]
        margin = early_stopping["min_delta"] if early_stopping else 0.0
        if not math.isnan(value) and (self.reference is None or value > self.reference + margin):
            self.reference, self.waited = value, 0
        else:
            self.waited += 1
        if math.isnan(value) or (self.best is not None and value <= self.best):
            return False
        self.best, self.best_epoch = value, row["epoch"]
        return True

    @property
    def hours(self) -> float:
        """The time that all epochs so far took, those before an interruption among them."""
        return sum(row["seconds"] for row in self.history) / 3600

    @property
    def seconds_before(self) -> float:
        """The time that epochs took in tasks before this one."""
        return float(sum(row["seconds"] for row in self.history[: self.resumed]))

    def stops(self, early_stopping: dict | None) -> bool:
        """Whether patience has run out."""
        return early_stopping is not None and self.waited >= early_stopping["patience"]
