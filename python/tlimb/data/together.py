"""Two sets of scans in one batch."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch.utils.data import BatchSampler, Dataset

from tlimb.data.dataset import Batch, EpochOrder, batch_count, batched, fetch
from tlimb.seeds import seed_for


class Together(Dataset):
    """The scans of a first dataset, then those of a second one, with one label more: 0 in the first, 1 in the second.

    Items of both are (image, [labels]) with the same labels. A batch holds scans of the first before those of the
    second.
    """

    def __init__(self, first: Dataset, second: Dataset):
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitems__(self, indices: list[int]) -> Batch:
        """A batch at once, in the order of `indices`, which name the first set's scans before the second's."""
        n = len(self.first)
        sides = [[i for i in indices if i < n], [i - n for i in indices if i >= n]]
        parts = [fetch(dataset, side) for dataset, side in zip((self.first, self.second), sides) if side]
        images = torch.cat([images for images, _ in parts])
        labels = [torch.cat(each) for each in zip(*(labels for _, labels in parts))]
        return images, [*labels, torch.tensor([float(i >= n) for i in indices])]


class Pairs(BatchSampler):
    """Batches of two sets: `each[0]` of the first and `each[1]` of the second, as indices into `Together`.

    order: of the first set; its `epoch` and seed decide both. first, second: sizes. shown: the set that an epoch shows
    once ("labelled" the first, "unlabelled" the second, "longest" the one that needs more batches); the other one goes
    round. A last scan that would be alone in its batch joins the one before.
    """

    def __init__(
        self,
        order: EpochOrder,
        first: int,
        second: int,
        each: tuple[int, int],
        shown: Literal["labelled", "unlabelled", "longest"] = "labelled",
    ):
        self.order, self.sizes, self.each, self.shown = order, (first, second), each, shown

    def __len__(self) -> int:
        needed = [batch_count(size, each) for size, each in zip((len(self.order), self.sizes[1]), self.each)]
        return {"labelled": needed[0], "unlabelled": needed[1], "longest": max(needed)}[self.shown]

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng(seed_for(self.order.seed, "second order", self.order.stage, self.order.epoch))
        first = self._side(0, lambda: np.fromiter(self.order, dtype=int))
        second = self._side(1, lambda: self.sizes[0] + random.permutation(self.sizes[1]))
        yield from ([*map(int, one), *map(int, two)] for one, two in zip(first, second))

    def _side(self, number: int, draw) -> list:
        """A set's scans of each batch of the epoch."""
        drawn, size, count = draw(), self.each[number], len(self)
        if batch_count(len(drawn), size) == count:
            return batched(drawn, size)
        rounds = [drawn]
        while sum(map(len, rounds)) < count * size:
            rounds.append(draw() if number else np.random.default_rng(len(rounds)).permutation(drawn))
        return batched(np.concatenate(rounds)[: count * size], size)
