"""One training carried through to its folder: new, taken from what is kept, or failed with its reason."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from tlimb import __version__
from tlimb.errors import InputError
from tlimb.files import digest, read_json, write_csv, write_json, write_text
from tlimb.registry import source_digest
from tlimb.scenarios.device import device_name
from tlimb.scenarios.progress import Progress, TrainingFailed
from tlimb.scenarios.scenario import Training
from tlimb.state import SECONDS, Kept, link_or_copy
from tlimb.store import Store
from tlimb.weights.card import model_card


@dataclass(frozen=True)
class Settings:
    """How a task trains, beside what its job says.

    state_dir: where states are kept, or None. code: digest of the training code. trusted: modules beyond the usual
    ones. state_seconds: least time between two states written.
    """

    device: torch.device
    state_dir: str | None = None
    code: str = ""
    trusted: tuple[str, ...] = ()
    state_seconds: float = SECONDS


def keep_for(identity: str, budget: int, data: dict, settings: Settings) -> Kept:
    """Where the state of one training is kept: under its id and all else that its numbers depend on.

    budget: the epochs it is trained for. data: as `learned_from` gives it.
    """
    key = data | {
        "budget": budget,
        "code": [settings.code, *map(source_digest, settings.trusted)],
        "torch": [torch.__version__, device_name(settings.device), torch.get_num_threads()],
    }
    return Kept(settings.state_dir, identity, key, settings.state_seconds)


def learned_from(rows: pd.DataFrame, facts: dict, store: Store, init: str) -> dict:
    """What a training learns from, as JSON values that are equal where it is.

    rows: the scans of its split with roles and labels; facts: of its job, where `labels` and `columns` say what labels
    mean; init: digest of the weights it starts from, or empty.
    """
    contents = store.index.set_index("scan_id")["digest"]
    table = rows.drop(columns=["split"]).assign(content=rows["scan_id"].map(contents))
    return {
        "store": store.fingerprint,
        "init": init,
        "labels": [facts["labels"], facts["columns"]],
        "table": digest(table.sort_values(["role", "scan_id"]).to_csv(index=False)),
    }


def carry_through(folder, name: str, about: dict, kept: Kept, train: Callable[[], dict]) -> None:
    """Leave a training's result in `folder`, with the file `name` (encoder.json or model.json) written last.

    train: trains, writes every other file, and returns what it adds to `about`. What it raises makes the result a
    failed one, so that the trainings after it go on; faults of the machine (OSError, MemoryError) are raised.
    """
    folder, started = Path(folder), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    if kept.finished():
        print(f"{about['id']}: taken from {kept.finished()}")
        _copy(kept.finished(), folder, name, about)
        return
    about = about | {"reused": False}
    try:
        found = train()
    except (OSError, MemoryError):
        raise  # the machine's fault, not the trial's: the task fails and can be run again
    except Exception as error:
        reason = reason_of(error)
        print(f"{about['id']} failed: {reason}")
        if not isinstance(error, (InputError, TrainingFailed)):
            traceback.print_exc()
        about |= {"status": "failed", "reason": reason, "seconds": time.monotonic() - started}
        write_json(folder / name, about | _left_by(error, folder))
        return
    print(f"{about['id']}: best epoch {found['best_epoch']} of {found['epochs_run']}")
    about |= {"status": "ok", "reason": ""} | found
    about["seconds"] += time.monotonic() - started
    write_text(folder / "model-card.md", model_card(about))
    write_json(folder / name, about)
    kept.keep(folder)


def _left_by(error: Exception, folder: Path) -> dict:
    """What a training that diverged leaves: its history, where an epoch was finished, and `failure`."""
    if not isinstance(error, TrainingFailed):
        return {}
    if error.history:
        write_history(folder, Progress(error.history))
    return {"failure": error.failure} if error.failure is not None else {}


def _copy(result: Path, folder: Path, name: str, about: dict) -> None:
    """A kept result under the name it bears now: what `about` says (candidate, spec) may be worded anew."""
    for path in sorted(result.iterdir()):
        if path.name != name:
            (folder / path.name).unlink(missing_ok=True)
            link_or_copy(path, folder / path.name)
    write_json(folder / name, read_json(result / name) | about | {"reused": True})


def outcome(training: Training, progress: Progress, device: torch.device) -> dict:
    """What a finished training adds to encoder.json or model.json."""
    return {
        "input_shape": list(training.view.input_shape),
        "normalise": training.normalise,
        "heads": training.stage["heads"],
        "start": training.start,
        "targets": {target.name: target.facts() for target in training.targets},
        "best_epoch": progress.best_epoch,
        "epochs_run": progress.epochs_run,
        "stopped": progress.stopped or "epochs",
        "stopped_early": progress.stopped == "early_stopping",
        "seconds": progress.seconds_before,
        "parameters": training.tuner.counts(),
        "made_with": {"tlimb": __version__, "torch": torch.__version__},
        "device": device_name(device),
    }


def write_history(folder, progress: Progress) -> None:
    """Write history.csv, a row an epoch."""
    write_csv(Path(folder) / "history.csv", pd.DataFrame(progress.history))


def reason_of(error: Exception) -> str:
    """Why a training failed, in one line."""
    if isinstance(error, InputError):
        return "; ".join(map(str, error.problems))
    if isinstance(error, TrainingFailed):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "the device ran out of memory"
    return f"{type(error).__name__}: {error}".splitlines()[0]
