"""Lightning's Trainer as a stage sets it up."""

import signal
from datetime import timedelta

import lightning.pytorch as lightning
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment

from tlimb import registry
from tlimb.errors import InputError, Problem
from tlimb.scenarios.precision import LIGHTNING
from tlimb.scenarios.processes import Copies, gathered, place
from tlimb.scenarios.shards import Shards

TERMINATED, KILLED = 128 + signal.SIGTERM, 128 + signal.SIGKILL
"""Exit statuses of what a signal ended, as a shell gives them: such a task is run again."""


def build_trainer(stage: dict, callbacks: list[lightning.Callback], epochs: int, device: torch.device):
    """A Trainer that trains and nothing else: no files, no output, no look at the scheduler's environment.

    epochs: how many were trained already; they count in `current_epoch` and in the stage's number of epochs.
    """
    settings, (_, size) = stage["trainer"], place()
    several = (Shards if settings["strategy"] == "fsdp" else Copies)(timeout=timedelta(minutes=30))
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=size,
        strategy=several if size > 1 else "auto",
        precision=LIGHTNING[settings["precision"]],
        accumulate_grad_batches=settings["accumulate"],
        max_epochs=stage["epochs"],
        gradient_clip_val=stage["gradient_clip"],
        callbacks=[*callbacks, AtOnce()] if size > 1 else callbacks,
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    done = trainer.fit_loop.epoch_progress
    for count in (done.current, done.total):
        count.ready = count.started = count.processed = count.completed = epochs
    return trainer


def build_callbacks(stage: dict, trusted=()) -> list[lightning.Callback]:
    """The stage's callbacks. Raises InputError for a class that is none of Lightning's."""
    built, problems = [], []
    for number, spec in enumerate(stage["callbacks"]):
        callback = registry.load("callback", spec["class_path"], trusted)(**spec["init_args"])
        if not isinstance(callback, lightning.Callback):
            where = f"stages.{stage['name']}.callbacks[{number}]"
            problems.append(Problem(where, f"{spec['class_path']} is no lightning.pytorch.Callback"))
        built.append(callback)
    if problems:
        raise InputError(problems)
    return built


class Saving(lightning.Callback):
    """Writes the state of training between two epochs, before any other callback sees the next one, and the one to go
    on from where a budget is used up."""

    def __init__(self):
        self._first = True

    def on_train_epoch_start(self, trainer, scenario) -> None:
        """Write the state, where one is due; what this process began from need not be written again."""
        if not self._first and scenario.kept is not None and gathered(scenario.kept.due())[0]:
            state = scenario.state()
            if trainer.is_global_zero:
                scenario.kept.save(state)
        self._first = False

    def on_train_end(self, trainer, scenario) -> None:
        """Leave the state for the next rung, before any other callback changes what was trained."""
        if scenario.budget is not None and scenario.budget.after is not None:
            state = scenario.state()
            if trainer.is_global_zero:
                scenario.budget.leave(state)


class AtOnce(lightning.Callback):
    """SIGTERM ends one of several processes at once; Lightning would first tell the others, amid what they exchange."""

    def on_train_start(self, trainer, scenario) -> None:
        """Take the place of Lightning's handler."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
