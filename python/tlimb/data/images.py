"""The images of a set of scans as one data module wants them."""

from collections.abc import Sequence

import numpy as np

from tlimb.data.modules import BaseDataModule
from tlimb.store import Store

MEMORY = 4 * 2**30
"""Bytes of images that are kept in memory; above that they are read from the memory-mapped store batch by batch."""


class Images:
    """Images of scans by their ids, float16 (n, C, ...): read once where they fit `memory` bytes, else as asked for.

    Raises InputError for a scan that the store does not hold.
    """

    def __init__(self, store: Store, module: BaseDataModule, scan_ids: Sequence[str], memory: int = MEMORY):
        self.shape = tuple(module.input_shape(store.shape))
        self.module = module
        self._store, self._box = store, module.box(store.shape)
        scans = list(dict.fromkeys(scan_ids))
        self._kept, self._row = None, {}
        if len(scans) * int(np.prod(self.shape)) * 2 <= memory:
            self._kept = np.ascontiguousarray(self._read(scans))
            self._row = {scan: row for row, scan in enumerate(scans)}

    def __call__(self, scan_ids: Sequence[str]) -> np.ndarray:
        """The images (n, C, ...) of these scans, in this order."""
        if self._kept is None:
            return self._read(scan_ids)
        return self._kept[[self._row[scan] for scan in scan_ids]]

    def _read(self, scan_ids: Sequence[str]) -> np.ndarray:
        return self.module.arrange(self._store.gather(list(scan_ids), self._box))
