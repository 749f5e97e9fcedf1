"""One stage trained by Lightning: what every scenario shares."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import lightning.pytorch as lightning
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler

from tlimb import registry
from tlimb.architectures.network import Network
from tlimb.data.augment.mixup import Mixed
from tlimb.data.dataset import loader
from tlimb.data.targets import Target
from tlimb.data.view import View
from tlimb.objectives.objective import Objective
from tlimb.objectives.term import Step
from tlimb.scenarios.averaging import Average, measure_statistics
from tlimb.scenarios.measures import validated
from tlimb.scenarios.progress import Monitor, Progress, TrainingFailed, monitor_of
from tlimb.scenarios.schedules import build_optimizer, build_scheduler
from tlimb.scenarios.tuning import Tuner
from tlimb.seeds import seed_for
from tlimb.state import Kept

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Training:
    """All that one stage's training needs.

    stage: the stage of the spec. train, validation: labelled scans (scans without labels in a stage without targets);
    items of `train` carry the labels of the targets, then of `columns`. unlabelled: the second set of scans, with the
    same labels, of which those of targets are missing. order: draws the training scans of the epoch that its `epoch` is set to. tuner: what
    trains, and when. normalise: the normaliser with its fitted facts, if any. start: what was loaded, if anything.
    featured: the datasets hold the features of a frozen encoder in place of images. trusted: modules beyond the usual
    ones whose classes may be used.
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


def steps_an_epoch(training: Training) -> int:
    """How many batches an epoch of a stage has."""
    return len(scenario_class(training)(training).batches())


def scenario_class(training: Training) -> Callable:
    """The scenario of a stage: what it names, or the usual one for one or two sets of scans."""
    usual = "Sequential" if training.unlabelled is None else "Simultaneous"
    spec = training.stage["scenario"] or {"class_path": usual, "init_args": {}}
    made = registry.load("scenario", spec["class_path"], training.trusted)
    return lambda training, kept=None: made(training, kept, **spec["init_args"])


def fit(training: Training, kept: Kept, device: torch.device) -> Progress:
    """Train a stage to its end and leave the weights of its best epoch in the network, on the CPU.

    Goes on from the state that `kept` holds, if any, to the same numbers. Raises TrainingFailed where the
    loss is not finite any more.
    """
    scenario = scenario_class(training)(training, kept)
    remaining = training.stage["epochs"] - len(scenario.progress.history)
    if remaining > 0 and not scenario.progress.stops(training.stage["early_stopping"]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", module="lightning")
            trainer = _trainer(remaining, training.stage["gradient_clip"], device)
            size, validation = training.stage["batch_size"], training.validation
            trainer.fit(scenario, scenario.batches(), loader(validation, SequentialSampler(validation), size))
    if scenario.best is None:
        raise TrainingFailed(f"{training.stage['monitor']} could not be computed on the validation part in any epoch")
    training.network.cpu().load_state_dict(scenario.best)
    training.tuner.finish()
    return scenario.progress


def _trainer(epochs: int, gradient_clip: float | None, device: torch.device) -> lightning.Trainer:
    """A Trainer that trains and nothing else: no files, no output, no look at the scheduler's environment."""
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=epochs,
        gradient_clip_val=gradient_clip,
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


class Scenario(lightning.LightningModule):
    """Steps, measures and records; random numbers follow from seed, stage, epoch and batch alone.

    A subclass says in `batches` which scans a step is given together.
    """

    def __init__(self, training: Training, kept: Kept | None = None):
        super().__init__()
        self.plan, self.kept = training, kept
        self.network, self.objective, self.stage = training.network, training.objective, training.stage
        self.progress, self.best = Progress(), None
        self.started, self.batch, self.sums, self.outputs, self.measured = 0.0, 0, {}, [], []
        self.monitor: Monitor = monitor_of(training.targets, self.stage["monitor"])
        self.learning = False
        average = self.stage["tuning"]["average"]
        self.average = None if average is None else Average(average, self.network)
        self.resumed = kept.load() if kept is not None else None
        if self.resumed is not None:
            self.progress, self.best = Progress(**self.resumed["progress"]), self.resumed["best"]
            self.network.load_state_dict(self.resumed["network"])
            self.objective.load_state_dict(self.resumed["objective"])

    def batches(self) -> DataLoader:
        """The batches of an epoch, whose number is that of `plan.order`: (images, labels), labelled scans first."""
        return loader(self.plan.train, self.plan.order, self.stage["batch_size"])

    def configure_optimizers(self):
        """The stage's optimiser, over all that ever trains; its scheduler is stepped at the end of each epoch."""
        trusted, spec = self.plan.trusted, self.stage["optimizer"]
        own = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        groups = self.plan.tuner.groups() + ([{"params": own, "scale": 1.0}] if own else [])
        self.optimizer = build_optimizer(spec, groups, trusted)
        self.scheduler = None
        if self.stage["scheduler"] is not None:
            self.scheduler = build_scheduler(self.stage["scheduler"], self.optimizer, self.stage["epochs"], trusted)
        if self.resumed is not None:
            if self.average is not None:
                self.average.load(self.resumed["average"])
            _restore(self.optimizer, self.resumed["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(self.resumed["scheduler"])
        return self.optimizer

    def step(self, batch, training: bool) -> Step:
        """A batch, on the device and augmented, as the terms see it."""
        images, labels = batch
        labels, columns, labelled = split_labels(labels, self.plan, len(images), training)
        progress = self._progress() if training else 0.0
        return Step(
            network=self.network,
            images=images,
            labels=labels,
            columns=columns,
            labelled=labelled,
            progress=progress,
            epoch=len(self.progress.history) + 1,
            training=training,
            featured=self.plan.featured,
            whole=training and self.plan.unlabelled is not None and self.objective.sees_unlabelled(progress),
            seen=getattr(self.objective.on_images, "seen", None),
        )

    def on_before_batch_transfer(self, batch, dataloader_idx: int):
        """Set this batch's noise, so that what was drawn before makes no difference; then the view's part."""
        self.batch += 1
        moment = ("noise", len(self.progress.history) + 1) if self.learning else ("validation",)
        torch.manual_seed(seed_for(self.plan.seed, self.stage["name"], *moment, self.batch))
        return self.plan.view.before(batch, self.learning)

    def on_after_batch_transfer(self, batch, dataloader_idx: int):
        """The view's part on the device: what the module presents, augmentation, hooks."""
        return self.plan.view.after(batch, self.learning)

    def on_train_epoch_start(self) -> None:
        """Set this epoch's order, and what trains in it."""
        epoch = len(self.progress.history) + 1
        self.plan.order.epoch, self.batch = epoch, 0
        self.started, self.sums, self.outputs = time.monotonic(), {}, []
        self.plan.tuner.set_epoch(epoch)
        self.learning = True

    def training_step(self, batch, index: int):
        """The objective's sum on one batch."""
        terms = self.objective(self.step(batch, training=True))
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach() * len(batch[0])
        return sum(terms.values())

    def on_train_batch_end(self, outputs, batch, index: int) -> None:
        """Let terms and a running mean of the weights follow."""
        self.objective.after_step(self.network)
        if self.average is not None:
            self.average.after_step()

    def on_validation_epoch_start(self) -> None:
        """No augmentation from here on; a running mean takes the place of the weights."""
        if self.average is not None:
            self.average.after_epoch(self.plan.order.epoch)
            if self.average.swap_in() and self.average.kind == "swa":
                self._measure_statistics()
        self.learning, self.measured, self.batch = False, [], 0

    def validation_step(self, batch, index: int) -> None:
        """Keep outputs and labels: loss and metrics are of the whole part, not means over batches.

        A primary term that looks at images instead is a mean over scans, and its outputs may be as large as images.
        """
        step = self.step(batch, training=False)
        if self.objective.on_images is not None:
            self.measured.append((float(self.objective.on_images(step)), len(batch[0])))
        names = [target.name for target in self.plan.targets]
        self.outputs.append(({name: step.outputs[name] for name in names}, batch[1]))

    def on_train_epoch_end(self) -> None:
        """Record the epoch, keep the best weights, step the scheduler, write the state, stop when patience runs out."""
        row = self._row()
        for name in ("train_loss", "validation_loss"):
            if not math.isfinite(row[name]):
                raise TrainingFailed(f"diverged: {name} is {row[name]} in epoch {row['epoch']}")
        if self.progress.record(row, self.monitor, self.stage["early_stopping"]):
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        if self.average is not None:
            self.average.swap_out()
        self._step_scheduler(row)
        if self.kept.due():
            self.kept.save(self._state())
        self.trainer.should_stop = self.progress.stops(self.stage["early_stopping"])

    def _row(self) -> dict:
        losses = {name: float(total) / len(self.plan.order) for name, total in self.sums.items()}
        outputs, labels = zip(*self.outputs)
        measured = validated(self.objective, self.plan.targets, self.monitor, outputs, labels, self.measured)
        return {
            "epoch": len(self.progress.history) + 1,
            "train_loss": losses.pop("primary", 0.0),
            "validation_loss": measured.pop("validation_loss"),
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": time.monotonic() - self.started,
            **{f"train_{name}": value for name, value in losses.items()},
            **measured,
        }

    def _measure_statistics(self) -> None:
        """The running statistics that go with averaged weights, over this epoch's training batches as trained on."""
        self.plan.tuner.set_mode()
        self.batch = 0
        batches = self.batches()
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

    def _progress(self) -> float:
        """0 at the first step of the training, 1 at the last one."""
        steps = len(self.batches())
        done = (len(self.progress.history)) * steps + self.batch - 1
        return done / max(self.stage["epochs"] * steps - 1, 1)

    def _state(self) -> dict:
        return {
            "network": self.network.state_dict(),
            "objective": self.objective.state_dict(),
            "best": self.best,
            "progress": asdict(self.progress),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "average": self.average and self.average.state(),
        }


def split_labels(labels, plan: Training, size: int, training: bool) -> tuple:
    """What a batch carries beside its images: labels of the targets for the labelled scans, label columns by their
    names for all, and how many scans are labelled. size: of the batch."""
    count = len(plan.targets)
    if isinstance(labels, Mixed) or not training:
        return labels, {}, size
    columns = {of.name: label for of, label in zip(plan.columns, labels[count:])}
    labelled = size
    if plan.unlabelled is not None:
        labelled = size - int(labels[-1].sum())
    return [label[:labelled] for label in labels[:count]], columns, labelled


def _restore(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load an optimiser's state, laid out in memory as its parameters are: a fused optimiser pairs them by address."""
    optimizer.load_state_dict(state)
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()
