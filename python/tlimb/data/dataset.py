"""Scans with their labels, and batches of them in an order that the epoch alone decides."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.seeds import seed_for

Batch = tuple[Tensor, list[Tensor]]


class ScanDataset(Dataset):
    """Items are (image, [labels]): a float32 tensor (C, ...) and one float32 scalar a target, NaN where missing, or
    (classes,) of 0 and 1 where a scan can have several classes.

    rows: a row a scan with its scan_id and labels. images: scan_ids -> float32 tensor (n, C, ...); features may stand
    for images.
    """

    def __init__(self, rows: pd.DataFrame, targets: Sequence[Target], images: Callable[[list[str]], Tensor]):
        self.scan_ids = rows["scan_id"].tolist()
        self.labels = [torch.from_numpy(target.encode(rows[target.name])) for target in targets]
        self._images = images

    def __len__(self) -> int:
        return len(self.scan_ids)

    def __getitem__(self, index: int) -> Batch:
        images, labels = self.__getitems__([index])
        return images[0], [label[0] for label in labels]

    def __getitems__(self, indices: list[int]) -> Batch:
        """A batch at once: images (B, C, ...) in one block of memory, and labels (B,) or (B, classes) a target."""
        return self._images([self.scan_ids[i] for i in indices]), [label[indices] for label in self.labels]


def fetch(dataset: Dataset, indices: list[int]) -> Batch:
    """Some items of a dataset as a batch: at once where it has `__getitems__`, else one by one."""
    at_once = getattr(dataset, "__getitems__", None)
    return stacked(at_once(indices) if at_once else [dataset[index] for index in indices])


def stacked(batch) -> Batch:
    """A batch as it is, or a list of items (image, [labels]) put together."""
    if not isinstance(batch, list):
        return batch
    images, labels = zip(*batch)
    return torch.stack(images), [torch.stack(each) for each in zip(*labels)]


def check_items(dataset: Dataset, name: str, shape: tuple[int, ...], targets: Sequence[Target]) -> None:
    """That a user's own dataset gives the items of ScanDataset. Raises InputError saying what its first ones are not.

    shape: (C, ...) of an image as the data module arranges it.
    """
    several = {target.name: (target.outputs,) if target.kind == "multilabel" else () for target in targets}
    wanted = [((2, *shape), "images"), *(((2, *width), f"labels of {name}") for name, width in several.items())]
    try:
        images, labels = fetch(dataset, [0, 1] if len(dataset) > 1 else [0, 0])
        found = [images, *labels]
    except (TypeError, ValueError, AttributeError, KeyError, NotImplementedError) as error:
        message = f"its items are not (image, [labels]): {type(error).__name__}: {error}"
        raise InputError([Problem(f"dataset {name}", message)]) from error
    problems = [] if len(found) == len(wanted) else [f"expected {len(targets)} labels an item, found {len(labels)}"]
    for value, (size, what) in zip(found, wanted):
        if not isinstance(value, Tensor):
            problems.append(f"expected {what} as a tensor, found {type(value).__name__}")
        elif value.dtype != torch.float32 or tuple(value.shape) != size:
            problems.append(f"expected {what} of two scans as float32 {size}, found {value.dtype} {tuple(value.shape)}")
    if problems:
        raise InputError([Problem(f"dataset {name}", problem) for problem in problems])


class EpochOrder(Sampler[int]):
    """0 .. n-1 in an order that is a function of seed, stage and `epoch`, whatever was drawn before."""

    def __init__(self, n: int, seed: int, stage: str):
        self.n, self.seed, self.stage, self.epoch = n, seed, stage, 1

    def generator(self) -> np.random.Generator:
        """This epoch's source of random numbers, always from its beginning."""
        return np.random.default_rng(seed_for(self.seed, "order", self.stage, self.epoch))

    def __iter__(self) -> Iterator[int]:
        yield from self.generator().permutation(self.n).tolist()

    def __len__(self) -> int:
        return self.n


def batched(indices: Sequence[int], size: int, least: int = 2) -> list[Sequence[int]]:
    """Indices in batches of `size`; a last one of fewer than `least` joins the batch before it."""
    count = batch_count(len(indices), size, least)
    return [indices[k * size : None if k == count - 1 else (k + 1) * size] for k in range(count)]


def batch_count(n: int, size: int, least: int = 2) -> int:
    """The number of batches that `batched` makes of n indices."""
    whole, rest = divmod(n, size)
    return max(whole + (rest >= least), 1)


class Batches(BatchSampler):
    """Batches of `batch_size`; a last one of fewer than `least` scans joins the batch before it: batch norm needs
    company, and every process that trains its part."""

    def __init__(self, sampler: Sampler[int], batch_size: int, least: int = 2):
        super().__init__(sampler, batch_size, drop_last=False)
        self.least = least

    def __iter__(self) -> Iterator[list[int]]:
        yield from batched(list(self.sampler), self.batch_size, self.least)

    def __len__(self) -> int:
        return batch_count(len(self.sampler), self.batch_size, self.least)


def loader(dataset: Dataset, sampler: Sampler[int], batch_size: int, least: int = 2) -> DataLoader:
    """Batches of a dataset, in this process: what it reads lies in memory or is mapped, and workers would copy it."""
    batches = Batches(sampler, batch_size, least)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=stacked, num_workers=0)
