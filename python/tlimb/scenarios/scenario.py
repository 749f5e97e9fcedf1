"""One stage trained by Lightning: what every scenario shares."""

import logging
import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain

import lightning.pytorch as lightning
import torch
from lightning.fabric.utilities.apply_func import apply_to_collection, move_data_to_device
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tlimb import registry
from tlimb.architectures.network import Network
from tlimb.data.augment.mixup import Mixed
from tlimb.data.dataset import loader
from tlimb.data.targets import Target
from tlimb.data.view import View
from tlimb.errors import InputError, Problem
from tlimb.objectives.objective import Objective
from tlimb.objectives.term import Step
from tlimb.scenarios.averaging import Average, measure_statistics
from tlimb.scenarios.budget import Budget, furthest
from tlimb.scenarios.device import deterministic
from tlimb.scenarios.measures import Sums, validated
from tlimb.scenarios.parts import Parts, counts_of
from tlimb.scenarios.precision import check_precision, lowered
from tlimb.scenarios.processes import LEAST, Turns, add_gradients, average_buffers, gathered, place, with_sampler
from tlimb.scenarios.progress import Monitor, Progress, TrainingFailed, monitor_of
from tlimb.scenarios.schedules import build_optimizer, build_scheduler
from tlimb.scenarios.shards import clip, divided, groups_apart, like, whole
from tlimb.scenarios.trainer import TERMINATED, Saving, build_callbacks, build_trainer
from tlimb.scenarios.tuning import Tuner
from tlimb.scenarios.watch import Watch, diverged
from tlimb.seeds import seed_for
from tlimb.state import Kept

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Training:
    """All that one stage's training needs.

    stage: the stage of the spec. train, validation: labelled scans (scans without labels in a stage without targets);
    items of `train` carry the labels of the targets, then of `columns`. order: draws the training scans of the epoch
    that its `epoch` is set to. tuner: what trains, and when. normalise: the normaliser with its fitted facts, if any.
    start: what was loaded, if anything. featured: the datasets hold the features of a frozen encoder in place of
    images. trusted: modules beyond the usual ones whose classes may be used. unlabelled: the second set of scans, with
    the same labels, of which those of targets are missing. again: the run and its source, from which other processes
    prepare the same training. budget: how many of the stage's epochs are trained now; all where it is None.
    labels: of the training scans, one tensor a target as items carry them.
    """

    stage: dict
    seed: int
    network: Network
    objective: Objective
    targets: Sequence[Target]
    train: Dataset
    validation: Dataset
    view: View
    order: Sampler
    tuner: Tuner
    normalise: dict | None = None
    start: dict | None = None
    featured: bool = False
    trusted: tuple[str, ...] = ()
    columns: Sequence[Target] = ()
    unlabelled: Dataset | None = None
    again: object = None
    budget: Budget | None = None
    labels: Sequence[Tensor] = ()


def steps_an_epoch(training: Training) -> int:
    """How many steps of the optimiser an epoch of a stage has."""
    return scenario_class(training)(training).steps


def scenario_class(training: Training) -> Callable:
    """The scenario of a stage: what it names, or the usual one for one or two sets of scans."""
    usual = "Sequential" if training.unlabelled is None else "Simultaneous"
    spec = training.stage["scenario"] or {"class_path": usual, "init_args": {}}
    made = registry.load("scenario", spec["class_path"], training.trusted)
    return lambda training, kept=None: made(training, kept, **spec["init_args"])


def fit(training: Training, kept: Kept, device: torch.device) -> Progress:
    """Train a stage to its end, or its budget's, and leave the weights to keep in network and objective, on the CPU.

    Goes on from the state that `kept` or the budget holds, if any, to the same numbers. Raises TrainingFailed where a
    loss is not finite any more or that state is lost, InputError for a scenario or settings that cannot be, SystemExit
    (143) on SIGTERM.
    """
    best, progress = trained(training, kept, device)
    training.network.cpu().load_state_dict(best["network"])
    training.objective.cpu().load_state_dict(best["objective"])
    training.tuner.finish()
    return progress


def trained(training: Training, kept: Kept, device: torch.device) -> tuple[dict, Progress]:
    """What `fit` loads, {"network": tensors by their names, "objective": the same}, and how training went."""
    check_precision(training.stage, device)
    scenario = scenario_class(training)(training, kept)
    scenario.begin()
    settings = training.stage["trainer"]
    left = scenario.until > len(scenario.progress.history) and not scenario.ended()
    try:
        if left:
            with deterministic(settings["deterministic"]), lowered(scenario, settings["precision"], device):
                _run(scenario, device)
        elif training.budget is not None and scenario.rank == 0:
            training.budget.leave(scenario.resumed)
    except TrainingFailed as error:
        error.history = scenario.progress.history
        raise
    if scenario.best is None:
        raise TrainingFailed(f"{training.stage['monitor']} could not be computed on the validation part in any epoch")
    return scenario.best, scenario.progress


def _run(scenario: "Scenario", device: torch.device) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", module="lightning")
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        done = len(scenario.progress.history)
        trainer = build_trainer(scenario.stage, [Saving(), *scenario.callbacks], done, device)
        try:
            trainer.fit(scenario, scenario.own_batches(), scenario.validation_batches())
        except SIGTERMException:
            raise SystemExit(TERMINATED) from None


class Scenario(lightning.LightningModule):
    """Steps, measures and records; random numbers follow from seed, stage, epoch and batch alone.

    One of your own is a subclass named by the stage's `scenario`. It says in `batches` which scans a step is given
    together, or in `training_step` what a step minimises.
    """

    def __init__(self, training: Training, kept: Kept | None = None):
        super().__init__()
        self.plan, self.kept, self.budget = training, kept, training.budget
        self.network, self.objective, self.stage = training.network, training.objective, training.stage
        self.progress, self.best, self.resumed = Progress(), None, None
        self.rank, self.size = place()
        self.least = LEAST * self.stage["trainer"]["devices"]
        self.accumulate = self.stage["trainer"]["accumulate"]
        self.weighted = self.accumulate > 1 or self.size > 1
        self.started, self.batch, self.counted, self.learning = 0.0, 0, 0, False
        self.sums, self.watch, self.measured, self.row = Sums(), Watch(), [], {}
        self._shares: deque[dict[str, float]] = deque()
        self._share: dict[str, float] | None = None
        self.average, self.callbacks = None, []
        self.monitor: Monitor = monitor_of(training.targets, self.stage["monitor"])

    def begin(self) -> None:
        """Make ready for training: from the state that is kept or handed on, if there is one."""
        self.callbacks = build_callbacks(self.stage, self.plan.trusted)
        average = self.stage["tuning"]["average"]
        self.average = None if average is None else Average(average, self.network)
        self.resumed = furthest(self.kept, self.budget)
        if self.resumed is not None:
            self.progress, self.best = Progress(**self.resumed["progress"]), self.resumed["best"]
            self.progress.resumed = len(self.progress.history)
            self.network.load_state_dict(self.resumed["network"])
            self.objective.load_state_dict(self.resumed["objective"])
            for callback, state in zip(self.callbacks, self.resumed["callbacks"], strict=True):
                callback.load_state_dict(state)

    def batches(self) -> DataLoader:
        """The batches of an epoch, whose number is that of `plan.order`: (images, labels), labelled scans first."""
        return loader(self.plan.train, self.plan.order, self.stage["batch_size"], self.least)

    def own_batches(self) -> DataLoader:
        """The same, or this process's part of each of them."""
        batches, counts = self.batches(), None
        if self.weighted:
            counts = counts_of(self.objective, self.plan.labels, batches, self.plan.train)
        if self.size == 1 and counts is None:
            return batches
        parts = Parts(batches.batch_sampler, (self.rank, self.size), self.accumulate, counts, self._shares)
        return with_sampler(batches, parts)

    def validation_batches(self) -> DataLoader:
        """The validation part, or this process's share of its batches."""
        scans = self.plan.validation
        batches = loader(scans, range(len(scans)), self.stage["batch_size"])
        if self.size == 1:
            return batches
        return with_sampler(batches, Turns(len(scans), self.stage["batch_size"], self.rank, self.size))

    @cached_property
    def number(self) -> int:
        """How many batches an epoch has."""
        return len(self.batches())

    @property
    def steps(self) -> int:
        """How many steps of the optimiser an epoch has; the last one may be of fewer batches."""
        return -(-self.number // self.accumulate)

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, from 1."""
        return len(self.progress.history) + 1

    @property
    def until(self) -> int:
        """The epoch after which training ends or pauses."""
        return self.stage["epochs"] if self.budget is None else min(self.budget.epochs, self.stage["epochs"])

    def configure_optimizers(self):
        """The stage's optimiser, over all that ever trains; its scheduler is stepped at the end of each epoch."""
        trusted, spec = self.plan.trusted, self.stage["optimizer"]
        own = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        groups = self.plan.tuner.groups() + ([{"params": own, "scale": 1.0}] if own else [])
        self.optimizer = build_optimizer(spec, groups_apart(groups), trusted)
        self.scheduler = None
        if self.stage["scheduler"] is not None:
            self.scheduler = build_scheduler(self.stage["scheduler"], self.optimizer, self.stage["epochs"], trusted)
        if self.resumed is not None:
            if self.average is not None:
                self.average.load(self.resumed["average"])
            _restore(self.optimizer, self.resumed["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(self.resumed["scheduler"])
            self.trainer.precision_plugin.load_state_dict(self.resumed["precision"])
        return self.optimizer

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """The norm of all gradients together is at most the stage's `gradient_clip`."""
        if gradient_clip_val and any(map(divided, self._learned())):
            clip(self._learned(), gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def step(self, batch, training: bool) -> Step:
        """A batch, on the device and augmented, as the terms see it."""
        images, labels = batch
        labels, columns, labelled = split_labels(labels, self.plan, len(images), self.labelled if training else None)
        progress = self._progress() if training else 0.0
        return Step(
            network=self.network,
            images=images,
            labels=labels,
            columns=columns,
            labelled=labelled,
            progress=progress,
            epoch=self.epoch,
            training=training,
            featured=self.plan.featured,
            whole=training and labelled < len(images) and self.objective.sees_unlabelled(progress),
            seen=getattr(self.objective.on_images, "seen", None),
            names=self.objective.passed_heads(),
            shares=self._share if training else None,
        )

    def on_before_batch_transfer(self, batch, dataloader_idx: int):
        """Set this batch's noise, so that what was drawn before makes no difference; then the view's part."""
        self.batch += 1
        if self.learning:
            moment = ("noise", self.epoch, self.batch, *([self.rank] if self.rank else []))
            images, labels = batch
            two = len(labels) > len(self.plan.targets) + len(self.plan.columns)
            self.labelled = len(images) - (int(labels[-1].sum()) if two else 0)
            self._share = self._shares.popleft() if self._shares else None
        else:
            moment = ("validation", (self.batch - 1) * self.size + self.rank + 1)
        torch.manual_seed(seed_for(self.plan.seed, self.stage["name"], *moment))
        return self.plan.view.before(batch, self.learning)

    def on_after_batch_transfer(self, batch, dataloader_idx: int):
        """The view's part on the device: what the module presents, augmentation, hooks."""
        return self.plan.view.after(batch, self.learning)

    def on_train_epoch_start(self) -> None:
        """Set this epoch's order, and what trains in it."""
        self.plan.order.epoch, self.batch, self.counted = self.epoch, 0, 0
        self.started, self.sums = time.monotonic(), Sums()
        self.plan.tuner.set_epoch(self.epoch)
        self.learning = True

    def training_step(self, batch, index: int):
        """The objective's sum on one batch."""
        step = self.step(batch, training=True)
        with self.exactly():
            terms = self.objective(step)
        return self.taken(terms, step)

    def exactly(self):
        """Within it everything is computed in 32 bits, but for what passes the network."""
        if self.stage["trainer"]["precision"] == "32":
            return nullcontext()
        return torch.autocast(self.device.type, enabled=False)

    def taken(self, terms: dict[str, Tensor], step: Step) -> Tensor | None:
        """Record a step's terms; their sum is what it minimises, nothing where there is none.

        Where gradients of several batches or processes are added up, that sum counts as its labelled scans do; what its
        primary term counts beside them is in it already.
        """
        self.watch.see(self.epoch, self.batch, terms)
        self.sums.add(terms, step.labelled, getattr(self.objective, "last", {}) if len(self.plan.targets) > 1 else {})
        if not terms:
            return None
        total = sum(terms.values())
        return total * (step.labelled / self.stage["batch_size"]) if self.weighted else total

    def on_after_backward(self) -> None:
        """Where gradients of several batches or processes are added up, make them the mean over their scans."""
        if not self.weighted:
            return
        self.counted += self.labelled
        if self._ends_a_step():
            learned = self._learned()
            count, self.counted = add_gradients(learned, self.counted), 0
            share = self.accumulate * self.stage["batch_size"] / count
            for summed, factor in ((True, share), (False, share * self.size)):
                gradients = [of.grad for of in learned if of.grad is not None and divided(of) is not summed]
                if gradients and factor != 1:
                    torch._foreach_mul_(gradients, factor)

    def on_train_batch_end(self, outputs, batch, index: int) -> None:
        """Let terms and a running mean of the weights follow each step of the optimiser."""
        if self._ends_a_step():
            self.objective.after_step(self.network)
            if self.average is not None:
                self.average.after_step()

    def on_validation_epoch_start(self) -> None:
        """No augmentation from here on; a running mean takes the place of the weights."""
        self.watch.look()
        average_buffers(self)
        if self.average is not None:
            self.average.after_epoch(self.epoch)
            if self.average.swap_in() and self.average.kind == "swa":
                self._measure_statistics()
                average_buffers(self)
        self.learning, self.measured, self.batch = False, [], 0

    def validation_step(self, batch, index: int) -> None:
        """Keep outputs and labels: loss and metrics are of the whole part, not means over batches.

        A primary term that looks at images instead is a mean over scans, and its outputs may be as large as images.
        """
        step, value = self.step(batch, training=False), None
        if self.objective.on_images is not None:
            with self.exactly():
                value = float(self.objective.on_images(step)), len(batch[0])
        outputs = {target.name: step.outputs[target.name] for target in self.plan.targets}
        self.measured.append((index * self.size + self.rank, outputs, step.labels, value))

    def on_validation_epoch_end(self) -> None:
        """The epoch's row, of which callbacks see the numbers."""
        self.row = self._row()
        self.log_dict({name: float(value) for name, value in self.row.items() if name != "epoch"})

    def on_train_epoch_end(self) -> None:
        """Record the epoch, keep its weights, step the scheduler, stop where patience, time or the budget runs out."""
        row = self.row
        lost = {name: row[name] for name in ("train_loss", "validation_loss") if not math.isfinite(row[name])}
        if lost:
            raise self._lost(lost)
        better = self.progress.record(row, self.monitor, self.stage["early_stopping"])
        if better or self.stage["trainer"]["keep"] == "last":
            parts = {"network": self.network, "objective": self.objective}
            self.best = {name: _copied(part.state_dict()) for name, part in parts.items()}
        if self.average is not None:
            self.average.swap_out()
        self._step_scheduler(row)
        told = self.trainer.should_stop and len(self.progress.history) < self.stage["epochs"]
        if not self.ended() and told:
            self.progress.stopped = "callback"
        if self.progress.stopped or len(self.progress.history) >= self.until:
            self.trainer.should_stop = True

    def ended(self) -> bool:
        """Whether patience or time has run out, which the progress then says, or a callback ended it."""
        hours = self.stage["trainer"]["max_hours"]
        if self.progress.stops(self.stage["early_stopping"]):
            self.progress.stopped = "early_stopping"
        elif hours is not None and self.progress.hours >= hours:
            self.progress.stopped = "max_hours"
        return bool(self.progress.stopped)

    def state(self) -> dict:
        """All from which training goes on to the same numbers, as it is between two epochs."""
        state = {
            "network": self.network.state_dict(),
            "objective": self.objective.state_dict(),
            "best": self.best,
            "progress": asdict(self.progress),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "average": self.average and self.average.state(),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "precision": self.trainer.precision_plugin.state_dict(),
        }
        return apply_to_collection(state, Tensor, whole)

    def _row(self) -> dict:
        losses = self.sums.means()
        parts = sorted(chain(*gathered(self.measured)), key=lambda part: part[0])
        _, outputs, labels, values = zip(*move_data_to_device(parts, self.device) if self.size > 1 else parts)
        known = [value for value in values if value is not None]
        measured = validated(self.objective, self.plan.targets, self.monitor, outputs, labels, known)
        return {
            "epoch": self.epoch,
            "train_loss": losses.pop("primary", 0.0),
            "validation_loss": measured.pop("validation_loss"),
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": max(gathered(time.monotonic() - self.started)),
            **{f"train_{name}": value for name, value in losses.items()},
            **measured,
        }

    def _lost(self, values: dict[str, float]) -> TrainingFailed:
        """What is raised for losses of a whole epoch that are not finite."""
        before = self.progress.history[-1] if self.progress.history else None
        last = before and {"epoch": before["epoch"], "step": None, "values": {name: before[name] for name in values}}
        return diverged({"epoch": self.row["epoch"], "step": None, "values": values}, last)

    def _measure_statistics(self) -> None:
        """The running statistics that go with averaged weights, over this epoch's training batches as trained on."""
        self.plan.tuner.set_mode()
        self.batch = 0
        batches = self.own_batches()
        measure_statistics(self.network, batches, lambda batch: self.step(self._on_device(batch), True).passed)
        self.network.eval()

    def _on_device(self, batch):
        images, labels = self.on_before_batch_transfer(batch, 0)
        return self.on_after_batch_transfer((images.to(self.device), [label.to(self.device) for label in labels]), 0)

    def _step_scheduler(self, row: dict) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(row["validation_loss"])
        elif self.scheduler is not None:
            self.scheduler.step()

    def _learned(self) -> list[torch.nn.Parameter]:
        """Everything that the optimiser steps."""
        return [of for group in self.optimizer.param_groups for of in group["params"]]

    def _ends_a_step(self) -> bool:
        """Whether the optimiser steps after this batch."""
        return self.batch % self.accumulate == 0 or self.batch == self.number

    def _progress(self) -> float:
        """0 at the first step of the training, 1 at the last one that is planned."""
        done = (self.epoch - 1) * self.steps + (self.batch - 1) // self.accumulate
        return done / max(self.stage["epochs"] * self.steps - 1, 1)


def split_labels(labels, plan: Training, size: int, labelled: int | None) -> tuple:
    """What a batch carries beside its images: labels of the targets for the labelled scans, label columns by their
    names for all, and how many scans are labelled.

    size: of the batch. labelled: None on the validation part, all of which is labelled. Raises InputError for mixed
    labels where there are columns or scans of a second set.
    """
    count = len(plan.targets)
    if isinstance(labels, Mixed):
        if len(labels.labels) > count:
            message = "mixes the labels of scans; a second set of scans has none, and label columns cannot be mixed"
            where = f"stages.{plan.stage['name']}.data.augment"
            raise InputError([Problem(where, f"MixUp {message}", "leave it out of this stage")])
        return labels, {}, size
    columns = {of.name: label for of, label in zip(plan.columns, labels[count:])}
    labelled = size if labelled is None else labelled
    return [label[:labelled] for label in labels[:count]], columns, labelled


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(tensor.detach()).cpu().clone() for name, tensor in state.items()}


def _restore(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load an optimiser's state, laid out in memory as its parameters are: a fused optimiser pairs them by address."""
    optimizer.load_state_dict(state)
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                entries[name] = like(value, parameter)
