"""Two sets of scans at once: labelled and unlabelled, or a source and a target domain."""

from typing import Literal

from torch.utils.data import DataLoader

from tlimb.data.dataset import EpochOrder, stacked
from tlimb.data.together import Pairs, Together
from tlimb.errors import InputError, Problem
from tlimb.scenarios.scenario import Scenario, Training
from tlimb.seeds import seed_for
from tlimb.state import Kept


class Simultaneous(Scenario):
    """Each step sees `batch_size` labelled scans and `unlabelled_batch` (as many, where null) unlabelled ones.

    epoch: what an epoch shows: the "labelled" scans, once each or as the stage's sampler draws them, the "unlabelled"
    ones once each, or whichever needs more batches ("longest"). The other set goes round, as
    `tlimb.data.together.Pairs` says. Raises InputError where the stage has one set of scans, or a process would have
    no unlabelled ones in a batch.
    """

    def __init__(
        self,
        training: Training,
        kept: Kept | None = None,
        unlabelled_batch: int | None = None,
        epoch: Literal["labelled", "unlabelled", "longest"] = "labelled",
    ):
        super().__init__(training, kept)
        where, problems = f"stages.{self.stage['name']}.scenario", []
        devices = self.stage["trainer"]["devices"]
        if training.unlabelled is None:
            message = "there is one set of scans; expected data.unlabelled beside labelled, or data.target"
            problems.append(Problem(where, message))
        elif len(training.unlabelled) < devices:
            message = f"{devices} processes need as many unlabelled scans, found {len(training.unlabelled)}"
            problems.append(Problem(f"stages.{self.stage['name']}.trainer.devices", message))
        if unlabelled_batch is not None and unlabelled_batch < devices:
            message = f"expected at least {devices}, found {unlabelled_batch}"
            problems.append(Problem(f"{where}.init_args.unlabelled_batch", message))
        if problems:
            raise InputError(problems)
        self.each = (self.stage["batch_size"], unlabelled_batch or self.stage["batch_size"])
        self.shown = epoch

    def batches(self) -> DataLoader:
        """Batches (images, labels), labelled scans first; the last of the labels is 1 for unlabelled scans."""
        plan = self.plan
        together = Together(plan.train, plan.unlabelled)
        second = EpochOrder(len(plan.unlabelled), seed_for(plan.seed, "second set"), self.stage["name"])
        pairs = Pairs(plan.order, second, len(plan.train), self.each, self.shown, self.least)
        return DataLoader(together, batch_sampler=pairs, collate_fn=stacked, num_workers=0)
