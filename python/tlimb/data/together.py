"""Two sets of scans in one batch."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch.utils.data import BatchSampler, Dataset, Sampler

from tlimb.data.dataset import Batch, batch_count, batched, fetch


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
    """Batches of two sets as indices into `Together`: `each[0]` of the first set, then `each[1]` of the second.

    first, second: the orders of either set, whose `epoch` decides what they draw, of the same lengths in every epoch;
    that of the first is this sampler's. offset: of the second set's indices. shown: what an epoch shows as its order
    draws it: the "labelled" set, the first, the "unlabelled" one, the second, or the "longest", which needs more
    batches (the first where both need as many). Its last batch is what is left, and joins the one before where that is
    fewer than `least`.

    The other set goes round from epoch to epoch, in batches of its full size: what its order draws as epoch 1, then
    what it draws as epoch 2, and so on, so that all of it is used before any of it is used again. A set smaller than
    its batch stands in every batch once.
    """

    def __init__(
        self,
        first: Sampler[int],
        second: Sampler[int],
        offset: int,
        each: tuple[int, int],
        shown: Literal["labelled", "unlabelled", "longest"] = "labelled",
        least: int = 2,
    ):
        self.sides, self.offset, self.least = (first, second), offset, least
        self.each = [min(size, len(side)) for size, side in zip(each, self.sides)]
        needed = [batch_count(len(side), size, least) for side, size in zip(self.sides, self.each)]
        self.shown = {"labelled": 0, "unlabelled": 1, "longest": int(needed[1] > needed[0])}[shown]
        self._count = needed[self.shown]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.sides[0].epoch
        first, second = (
            batched(_drawn(side, epoch), size, self.least) if number == self.shown else self._round(side, size, epoch)
            for number, (side, size) in enumerate(zip(self.sides, self.each))
        )
        self.sides[0].epoch = epoch
        yield from ([*one, *(self.offset + index for index in two)] for one, two in zip(first, second))

    def _round(self, side: Sampler[int], size: int, epoch: int) -> list[list[int]]:
        """An epoch's batches of the set that goes round."""
        begin, length = (epoch - 1) * len(self) * size, len(side)
        end = begin + len(self) * size
        rounds = range(begin // length, (end - 1) // length + 1)
        stream = [index for number in rounds for index in _drawn(side, number + 1)]
        start = begin - rounds[0] * length
        return [stream[at : at + size] for at in range(start, start + end - begin, size)]


def _drawn(side: Sampler[int], epoch: int) -> list[int]:
    side.epoch = epoch
    return [int(index) for index in side]
