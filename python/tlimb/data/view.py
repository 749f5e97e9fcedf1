"""How scans reach a network: the one way that training, validation and prediction share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor
from torch.utils.data import Dataset

from tlimb import registry
from tlimb.data.dataset import Batch, ScanDataset, check_items
from tlimb.data.hooks import Hook, load_hook
from tlimb.data.images import Images
from tlimb.data.modules import PASSED, BaseDataModule
from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem

METHODS = ("box", "arrange", *PASSED, "input_shape", "augments")
"""What a data module has."""


@dataclass(frozen=True)
class View:
    """Images, the dataset that gives them with labels, and what is done to each batch.

    Before the transfer to the device: the module's hook, then the user's. After it: the module's `present`, then (in
    training only) augmentation in the order of the sweep, then the module's hook, then the user's.
    images: scan_ids -> (n, C, ...). input_shape: (C, ...) as the network sees an image. make_dataset: called with rows,
    targets and images.
    """

    images: Callable[[Sequence[str]], Tensor]
    input_shape: tuple[int, ...]
    module: BaseDataModule
    make_dataset: Callable[..., Dataset] = ScanDataset
    before_hook: Hook | None = None
    after_hook: Hook | None = None
    augment: Sequence[Callable] = ()

    def dataset(self, rows: pd.DataFrame, targets: Sequence[Target]) -> Dataset:
        """The dataset of these scans (scan_id and labels). Raises InputError where a user's own gives other items."""
        dataset = self.make_dataset(rows, targets, self.images)
        if type(dataset) is not ScanDataset:
            check_items(dataset, type(dataset).__name__, self.images.shape, targets)
        return dataset

    def before(self, batch: Batch, training: bool) -> Batch:
        """The batch (images, labels) as it leaves for the device."""
        self.module.training = training
        batch = self.module.on_before_batch_transfer(batch, 0)
        return batch if self.before_hook is None else self.before_hook(batch, training)

    def after(self, batch: Batch, training: bool) -> Batch:
        """The batch as it arrives on the device, ready for the network."""
        images, labels = self.module.present(batch[0], training), batch[1]
        for augment in self.augment if training else ():
            images, labels = augment(images, labels)
        batch = self.module.on_after_batch_transfer((images, labels), 0)
        return batch if self.after_hook is None else self.after_hook(batch, training)

    def stands_still(self) -> bool:
        """Whether a scan is sure to look the same in every epoch, so that features can be computed once."""
        hooked = self.before_hook is not None or self.after_hook is not None
        return self.make_dataset is ScanDataset and not (hooked or self.augment or self.module.augments())


def build_module(spec: dict, trusted=()) -> BaseDataModule:
    """The data module that `spec` names. Raises InputError for a class that lacks one of its methods."""
    module = registry.load("module", spec["class_path"], trusted)(**spec["init_args"])
    lacking = [name for name in METHODS if not callable(getattr(module, name, None))]
    if lacking:
        message = f"is no data module: it has no {', '.join(lacking)}"
        raise InputError([Problem(f"module {spec['class_path']}", message, "make it a subclass of BaseDataModule")])
    return module


def build_view(images: Images, data: dict, trusted=(), training: bool = False) -> View:
    """The view that a stage's `data`, or model.json with the same keys, describes; `training` brings augmentation."""
    spec, hooks = data["dataset"], data["hooks"]
    made = registry.load("dataset", spec["class_path"], trusted)
    arguments = spec["init_args"]
    before, after = "on_before_batch_transfer", "on_after_batch_transfer"
    augment = data["augment"] if training else []
    return View(
        images,
        images.module.input_shape(images.store.shape),
        images.module,
        (lambda *given: made(*given, **arguments)) if arguments else made,
        load_hook(hooks[before], f"data.hooks.{before}", trusted),
        load_hook(hooks[after], f"data.hooks.{after}", trusted),
        [registry.load("augment", item["class_path"], trusted)(**item["init_args"]) for item in augment],
    )


def may_stay_on_gpu(data: dict, module: BaseDataModule) -> bool:
    """Whether nothing looks at images before they are moved, so that they may lie on the GPU from the start."""
    plain = registry.locate("dataset", data["dataset"]["class_path"]) == registry.locate("dataset", "ScanDataset")
    hooked = type(module).on_before_batch_transfer is not BaseDataModule.on_before_batch_transfer
    return plain and not hooked and data["hooks"]["on_before_batch_transfer"] is None
