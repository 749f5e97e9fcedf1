"""The images of a set of scans as one data module wants them."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from tlimb.data.modules import BaseDataModule, arranged_shape
from tlimb.store import Store

MEMORY = 4 * 2**30
"""Bytes of images that are kept in memory; above that they are read from the memory-mapped store batch by batch."""

SHARE = 0.4
"""The part of a GPU's memory that images may take; the rest stays free for the network and its gradients."""

BLOCK = 64
"""Scans read together while images are put where they are kept."""

CPU = torch.device("cpu")


class Images:
    """Images of scans by their ids, float32 (n, C, ...), kept as float16 where they fit: on `device` if it is a GPU
    with room, else in `memory` bytes; read as asked for otherwise. The numbers are the same wherever they are kept.

    normalise: what is done to images (n, C, ...) as they are read. Raises InputError for a scan that the store does not
    hold.
    """

    def __init__(
        self,
        store: Store,
        module: BaseDataModule,
        scan_ids: Sequence[str],
        memory: int = MEMORY,
        normalise: Callable[[np.ndarray], np.ndarray] | None = None,
        device: torch.device = CPU,
    ):
        self.module, self.store = module, store
        self._box, self._normalise = module.box(store.shape), normalise
        self.shape = arranged_shape(module, store.shape)
        scans = list(dict.fromkeys(scan_ids))
        size = len(scans) * int(np.prod(self.shape)) * 2
        self.device = device if device.type == "cuda" and size <= _room(device) else CPU
        self._kept, self._row = None, {}
        if self.device != CPU or size <= memory:
            self._row = {scan: row for row, scan in enumerate(scans)}
            self._kept = self._load(scans)

    def __call__(self, scan_ids: Sequence[str]) -> Tensor:
        """The images (n, C, ...) of these scans, in this order, where they are kept."""
        if self._kept is None:
            return torch.from_numpy(self._read(scan_ids)).float()
        return _taken(self._kept, [self._row[scan] for scan in scan_ids])

    def blocks(self, scan_ids: Sequence[str]) -> Iterator[np.ndarray]:
        """The images of scans as float16 (n, C, ...), some at a time; none is kept."""
        for start in range(0, len(scan_ids), BLOCK):
            yield self._read(scan_ids[start : start + BLOCK])

    def _load(self, scans: Sequence[str]) -> Tensor:
        kept = torch.empty((len(scans), *self.shape), dtype=torch.float16, device=self.device)
        start = 0
        for block in self.blocks(scans):
            kept[start : start + len(block)] = torch.from_numpy(block)
            start += len(block)
        return kept

    def _read(self, scan_ids: Sequence[str]) -> np.ndarray:
        images = self.module.arrange(self.store.gather(list(scan_ids), self._box)).astype("float16", copy=False)
        if self._normalise is not None:
            images = self._normalise(images).astype("float16", copy=False)
        return np.ascontiguousarray(images)


def _taken(kept: Tensor, rows: list[int]) -> Tensor:
    """Rows of a tensor as float32: by one kernel on a GPU; on a CPU row by row, which passes over memory just once."""
    if kept.is_cuda:
        return kept.index_select(0, torch.tensor(rows, device=kept.device)).float()
    taken = torch.empty((len(rows), *kept.shape[1:]))
    for place, row in enumerate(rows):
        taken[place] = kept[row]
    return taken


def _room(device: torch.device) -> float:
    """Bytes of a GPU that images may still take, whatever else lies on it."""
    free, total = torch.cuda.mem_get_info(device)
    return free - (1 - SHARE) * total
