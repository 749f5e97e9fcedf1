"""Two sets of scans at once: labelled and unlabelled, or a source and a target domain."""

from typing import Literal

from torch.utils.data import DataLoader

from tlimb.data.dataset import stacked
from tlimb.data.together import Pairs, Together
from tlimb.errors import InputError, Problem
from tlimb.scenarios.scenario import Scenario, Training
from tlimb.state import Kept


class Simultaneous(Scenario):
    """Each step sees `batch_size` labelled scans and `unlabelled_batch` (as many, where null) unlabelled ones.

    epoch: what an epoch shows once: "labelled" scans (as the stage's sampler draws them), "unlabelled" ones, or the set
    that needs more batches ("longest"). The other set goes round, in ever new orders. Raises InputError where the stage
    has one set of scans.
    """

    def __init__(
        self,
        training: Training,
        kept: Kept | None = None,
        unlabelled_batch: int | None = None,
        epoch: Literal["labelled", "unlabelled", "longest"] = "labelled",
    ):
        super().__init__(training, kept)
        if training.unlabelled is None:
            message = "there is one set of scans; expected data.unlabelled beside labelled, or data.target"
            raise InputError([Problem(f"stages.{self.stage['name']}.scenario", message)])
        self.each = (self.stage["batch_size"], unlabelled_batch or self.stage["batch_size"])
        self.shown = epoch

    def batches(self) -> DataLoader:
        """Batches (images, labels), labelled scans first; the last of the labels is 1 for unlabelled scans."""
        together = Together(self.plan.train, self.plan.unlabelled)
        pairs = Pairs(self.plan.order, len(self.plan.train), len(self.plan.unlabelled), self.each, self.shown)
        return DataLoader(together, batch_sampler=pairs, collate_fn=stacked, num_workers=0)
