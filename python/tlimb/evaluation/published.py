"""Encoders that trials start from without any pretraining in the sweep: published weights, loaded as training does."""

from dataclasses import dataclass
from pathlib import Path

from tlimb.architectures.build import build_network
from tlimb.architectures.network import Network
from tlimb.data.fingerprint import recipe_of
from tlimb.data.images import Images
from tlimb.data.normalise import fit_normaliser
from tlimb.data.view import build_module
from tlimb.errors import InputError, Problem
from tlimb.scenarios.job import Job, Pretrained, require_unchanged, start_of
from tlimb.scenarios.start import load_start
from tlimb.store import Store


@dataclass(frozen=True)
class Published:
    """What `tlimb.search.starts.published_start` says, with the job's files, path as the sweep writes it -> where it
    lies now, and the encoder of tlimb that they hold, None where others made them."""

    facts: dict
    files: dict[str, Path]
    encoder: Pretrained | None

    @property
    def path(self) -> str:
        """The weights as the sweep names them."""
        return self.facts["weights"]["path"]

    @property
    def whole(self) -> Pretrained | None:
        """The encoder of tlimb that stands here as it is, so that its heads go with it."""
        own = self.encoder is not None and self.facts["architecture"] == self.encoder.facts["architecture"]
        return self.encoder if own and self.facts["weights"]["part"] is None else None

    def input_shape(self, store: Store, trusted=()) -> tuple[int, ...]:
        """(C, ...) of an image as the network sees it."""
        return tuple(build_module(self.facts["data"]["module"], trusted).input_shape(store.shape))

    def normaliser(self, train: list[str], store: Store, trusted=()) -> dict | None:
        """The stage's normaliser as fitted on training scans, or that of an encoder of tlimb; None for none."""
        data = self.facts["data"]
        if data["normalise"] is None:
            return None
        images = Images(store, build_module(data["module"], trusted), [], memory=-1)
        earlier = None if self.encoder is None else self.encoder.facts["normalise"]
        return fit_normaliser(data["normalise"], earlier, lambda: images.blocks(train), trusted)

    def network(self, outputs: dict[str, int], seed: int, store: Store, trusted=(), untrained: bool = False) -> Network:
        """The network with these weights; what they do not fill, and all of it where `untrained`, as the seed has it.

        outputs: heads of `whole` to build, with their widths; they are not loaded. Prints what was loaded. Raises
        InputError for weights that do not fit.
        """
        heads = {name: self.whole.facts["heads"].get(name) for name in outputs}
        heads = {name: head for name, head in heads.items() if head}
        shape = self.input_shape(store, trusted)
        network = build_network(self.facts["architecture"], shape, outputs, seed, trusted, heads, recipe_of(store))
        if not untrained:
            if self.encoder is not None and self.encoder.failed:
                raise InputError([Problem(self.path, self.encoder.failed)])
            load_start(network, _stage(self.facts), self.encoder, self.files)
        return network


def read_published(job: Job, files: dict[str, Path]) -> list[Published]:
    """The published encoders of a probe job. Raises InputError for files that are missing or not what they were."""
    require_unchanged(job, files)
    return [Published(facts, files, start_of(_stage(facts), None, files)) for facts in job.facts["starts"]]


def _stage(facts: dict) -> dict:
    """The stage that starts from the weights, as far as that is all it does."""
    return {"name": facts["stage"], "strategy": "full", "targets": [], "weights": facts["weights"]}
