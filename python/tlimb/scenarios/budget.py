"""Trainings that pause and go on: the rungs of successive halving.

A training is laid out for all epochs of its stage from the start, whatever its budget: schedules, ramps and what is
unfrozen follow from the epoch alone. So it pauses after its budget with a state from which the next rung goes on to the
numbers that it would have had in one go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from tlimb.errors import InputError, Problem
from tlimb.files import read_json
from tlimb.scenarios.progress import TrainingFailed
from tlimb.state import Kept, peek, read_state, write_state

STATE = "state.safetensors"


@dataclass(frozen=True)
class Budget:
    """How far one trial is trained now.

    trial: its id. data: digest of the scans, labels and weights that it learns from. epochs: after which it pauses.
    continues: epochs of the rung before, None in the first one. before: the folder that this rung left of the trial.
    after: the file to leave a state in; None where no rung can follow.
    """

    trial: str
    data: str
    epochs: int
    continues: int | None = None
    before: Path | None = None
    after: Path | None = None

    @property
    def file(self) -> Path | None:
        """Where the rung before left its state; None where there is none."""
        file = self.before and self.before / STATE
        return file if file and file.exists() else None

    def problem(self) -> Problem | None:
        """What is wrong with the state of the rung before: of another trial, of another rung, of other data."""
        if self.continues is None or self.file is None:
            return None
        wanted = {"trial": self.trial, "epochs": self.continues, "data": self.data}
        try:
            found = peek(self.file, "about")
        except (OSError, SafetensorError, ValueError) as error:
            return Problem(str(self.file), f"cannot be read: {error}")
        if found == wanted:
            return None
        other = " of other scans, labels or weights" if found["data"] != self.data else ""
        message = f"holds trial {found['trial']} after {found['epochs']} epochs{other}"
        return Problem(str(self.file), f"{message}, expected trial {self.trial} after {self.continues}")

    def load(self) -> dict | None:
        """The state that the rung before left, None in the first rung and where none was left."""
        return read_state(self.file)["state"] if self.continues is not None and self.file is not None else None

    def leave(self, state: dict) -> None:
        """Write the state for the next rung, where there can be one."""
        if self.after is not None:
            about = {"trial": self.trial, "epochs": self.epochs, "data": self.data}
            write_state(self.after, {"about": about, "state": state})

    def lost(self) -> TrainingFailed:
        """Why nothing is there to go on from."""
        told = self.before and self.before / "model.json"
        reason = read_json(told).get("reason") if told and told.exists() else ""
        if reason:
            return TrainingFailed(f"its first {self.continues} epochs failed: {reason}")
        return TrainingFailed(f"the state after its first {self.continues} epochs is missing")


def require_own_states(budgets: Sequence[Budget]) -> None:
    """That states of a rung before are those of the trials that go on from them. Raises InputError with all others."""
    problems = [problem for problem in (budget.problem() for budget in budgets) if problem is not None]
    if problems:
        raise InputError(problems)


def furthest(kept: Kept | None, budget: Budget | None) -> dict | None:
    """The state to begin with: this training's own one, from before an interruption, or that of the rung before,
    whichever got further; None where nothing was trained yet.

    Raises TrainingFailed where a training should go on and there is neither.
    """
    own = kept.load() if kept is not None else None
    if budget is None or budget.continues is None or _epochs(own) >= budget.continues:
        return own
    before = budget.load()
    if own is None and before is None:
        raise budget.lost()
    return max((own, before), key=_epochs)


def _epochs(state: dict | None) -> int:
    return -1 if state is None else len(state["progress"]["history"])
