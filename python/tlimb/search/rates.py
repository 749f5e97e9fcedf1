"""How long trainings took, from which is estimated how long others will."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tlimb.files import canonical_json, read_json, read_jsonl

LEVELS = ("trained alike", "of that network on such images", "of that network", "of other networks", "of other kinds")
"""What a rate is taken from, the nearest first."""


@dataclass
class Rates:
    """Seconds that a device takes for a scan and epoch, by what is trained; of the unknown the nearest that is known.

    devices: what was measured on. trainings: how many were.
    """

    devices: set[str] = field(default_factory=set)
    trainings: int = 0
    _sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, keys: list[str], work: float, seconds: float) -> None:
        """Note a training. work: scans times epochs; seconds: of all its devices together."""
        self.trainings += 1
        for key in keys:
            known = self._sums.setdefault(key, [0.0, 0.0])
            known[0] += work
            known[1] += seconds

    def seconds(self, keys: list[str], work: float) -> tuple[float, str] | None:
        """Device seconds of a training, and of what kind those were that say so; None where nothing is known."""
        for key, level in zip(keys, LEVELS, strict=True):
            known = self._sums.get(key)
            if known and known[0] > 0:
                return work * known[1] / known[0], level
        return None


def keys_of(architecture: dict, stage: dict, recipe: dict) -> list[str]:
    """What a training's rate is filed under, the nearest first: one for each of LEVELS.

    stage: of a spec; recipe: settings of its preprocessing.
    """
    network = stage.get("architecture") or architecture
    still = {"frozen": "frozen", "direct": "direct"}.get(stage["strategy"], "trained")
    objective, trainer = stage["objective"], stage["trainer"]
    terms = sorted(term["class_path"] for term in objective["auxiliary"])
    settings = [trainer["devices"], trainer["precision"], stage["batch_size"]]
    settings += [stage["tuning"], stage["data"]["augment"]]
    images = [network, stage["data"]["module"], recipe, still]
    nearest = [*images, stage["targets"], objective["primary"], terms, settings]
    return [canonical_json(key) for key in (nearest, images, [network, still], still, "")]


def read_rates(outdir: Path) -> Rates:
    """The rates of all that finished in `outdir`; models and encoders of any sweep count."""
    rates = Rates()
    for stage, about in _trained(outdir):
        epochs, scans = about["epochs_run"], about["n"]["train"]
        if epochs and about["seconds"] > 0:
            keys = keys_of(about["architecture"], stage, about["recipe"])
            rates.add(keys, epochs * scans, about["seconds"] * stage["trainer"]["devices"])
            rates.devices.add(about["device"])
    return rates


def _trained(outdir: Path) -> Iterator[tuple[dict, dict]]:
    """The stage and the facts of each finished training."""
    lines = [line for path in outdir.glob("search/round-*/pretrainings.jsonl") for line in read_jsonl(path)]
    stages = {line["id"]: line["spec"]["stage"] for line in lines}
    for path in sorted(outdir.glob("encoders/*/encoder.json")):
        about = read_json(path)
        if about["status"] == "ok" and about["id"] in stages:
            yield stages[about["id"]], about
    for path in sorted(outdir.glob("models/*/model.json")):
        about = read_json(path)
        if about["status"] == "ok":
            yield about["spec"]["stages"][-1], about
