"""Scans with their labels, and batches of them in an order that the epoch alone decides."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from tlimb.data.targets import Target
from tlimb.seeds import seed_for


class ScanDataset(Dataset):
    """Items are (image, [labels]): a float32 tensor (C, ...) and one float32 scalar a target, NaN where missing.

    rows: a row a scan with its scan_id and labels. images: scan_ids -> (n, C, ...); features may stand for images.
    """

    def __init__(self, rows: pd.DataFrame, targets: Sequence[Target], images: Callable[[list[str]], np.ndarray]):
        self.scan_ids = rows["scan_id"].tolist()
        self.labels = [torch.from_numpy(target.encode(rows[target.name])) for target in targets]
        self._images = images

    def __len__(self) -> int:
        return len(self.scan_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, list[Tensor]]:
        images, labels = self.__getitems__([index])
        return images[0], [label[0] for label in labels]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, list[Tensor]]:
        """A batch at once: images (B, C, ...) in one block of memory, and a (B,) tensor of labels a target."""
        images = np.ascontiguousarray(self._images([self.scan_ids[i] for i in indices]), dtype="float32")
        return torch.from_numpy(images), [label[indices] for label in self.labels]


class EpochOrder(Sampler[int]):
    """0 .. n-1 in an order that is a function of seed, stage and `epoch`, whatever was drawn before."""

    def __init__(self, n: int, seed: int, stage: str):
        self.n, self.seed, self.stage, self.epoch = n, seed, stage, 1

    def __iter__(self) -> Iterator[int]:
        yield from (
            np.random.default_rng(seed_for(self.seed, "order", self.stage, self.epoch)).permutation(self.n).tolist()
        )

    def __len__(self) -> int:
        return self.n


class Batches(BatchSampler):
    """Batches of `batch_size`; a last scan that would be alone joins the batch before it: batch norm needs company."""

    def __init__(self, sampler: Sampler[int], batch_size: int):
        super().__init__(sampler, batch_size, drop_last=False)

    def __iter__(self) -> Iterator[list[int]]:
        indices = list(self.sampler)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            last = start == (len(self) - 1) * self.batch_size
            yield indices[start:] if last else indices[start : start + self.batch_size]

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch_size)
        return max(whole + (rest > 1), 1)


def loader(dataset: ScanDataset, sampler: Sampler[int], batch_size: int) -> DataLoader:
    """Batches of a dataset, in this process: what it reads lies in memory or is mapped, and workers would copy it."""
    return DataLoader(dataset, batch_sampler=Batches(sampler, batch_size), collate_fn=_as_it_is, num_workers=0)


def _as_it_is(batch):
    return batch
