"""What a process is given of every batch, and what it counts where a step adds up several gradients."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

from tlimb.objectives.objective import Objective


class Parts(BatchSampler):
    r"""The part of each batch that one process is given: of n scans every `size`-th, from its own number on.

    A step adds up the gradients of `accumulate` batches, each divided among the processes. The mean loss of a target t
    over all their scans is sum_b C_bt L_bt / sum_b C_bt, where C_bt is what the scans of part b count in it, by
    `counts` (target -> (n,) of the first n scans, the labelled ones; those of a second set count nothing). Parts count
    as their n_b labelled scans do, so L_bt is to count (C_bt / n_b) / (sum_b C_bt / sum_b n_b) beside them.

    shares: where target -> that number is left, of each part as it is given; without targets of which no scan of the
    step has a label. Nothing is left where `counts` is None.
    """

    def __init__(
        self,
        batches: BatchSampler,
        place: tuple[int, int],
        accumulate: int,
        counts: dict[str, Tensor] | None,
        shares: deque[dict[str, float]],
    ):
        self.batches, self.accumulate, self.counts, self.shares = batches, accumulate, counts, shares
        self.rank, self.size = place

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        self.shares.clear()
        batches = iter(self.batches)
        while step := [list(indices) for indices in islice(batches, self.accumulate)]:
            for part in (indices[self.rank :: self.size] for indices in step):
                if self.counts is not None:
                    self.shares.append(self._share(part, [*chain(*step)]))
                yield part

    def _share(self, part: list[int], step: list[int]) -> dict[str, float]:
        own, whole = self._each(part), self._each(step)
        return {name: own[name] / each for name, each in whole.items() if each > 0}

    def _each(self, indices: list[int]) -> dict[str, float]:
        """Target -> what the labelled ones of some scans count in its mean loss, on average."""
        labelled = [index for index in indices if index < len(next(iter(self.counts.values())))]
        return {name: float(of[labelled].sum()) / max(len(labelled), 1) for name, of in self.counts.items()}


def counts_of(
    objective: Objective, labels: Sequence[Tensor], batches: DataLoader, train: Dataset
) -> dict[str, Tensor] | None:
    """`counts` of Parts for the batches of an epoch, by the labels of the training scans; None where no scan counts
    more than another, and where a scenario's batches are of other scans than `train` or come without indices."""
    counts = objective.counts(labels)
    known = getattr(batches.dataset, "first", batches.dataset) is train and batches.batch_sampler is not None
    return counts if known and any((of != of[0]).any() for of in counts.values()) else None
