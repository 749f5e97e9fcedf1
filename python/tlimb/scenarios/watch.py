"""The step in which a loss is not finite any more."""

import math

import torch
from torch import Tensor

from tlimb.scenarios.progress import TrainingFailed


class Watch:
    """Looks at the terms of each step: at once on a CPU, a step later on a GPU, which need not be waited for so."""

    def __init__(self):
        self._last: dict | None = None
        self._waiting: tuple | None = None

    def see(self, epoch: int, step: int, terms: dict[str, Tensor]) -> None:
        """Take note of a step's terms, scalars; epoch and step are counted from 1. Raises TrainingFailed as `look`."""
        self.look()
        if terms:
            values = torch.stack([value.detach().float() for value in terms.values()])
            self._waiting = epoch, step, tuple(terms), values.to("cpu", non_blocking=True), _passed(values)
            if values.device.type == "cpu":
                self.look()

    def look(self) -> None:
        """Raise TrainingFailed where a term of the last step seen is not finite."""
        if self._waiting is None:
            return
        epoch, step, names, values, event = self._waiting
        self._waiting = None
        if event is not None:
            event.synchronize()
        found = {"epoch": epoch, "step": step, "values": dict(zip(names, values.tolist()))}
        if not all(map(math.isfinite, found["values"].values())):
            raise diverged(found, self._last)
        self._last = found


def diverged(found: dict, last: dict | None) -> TrainingFailed:
    """What is raised for values that are not finite. found, last: epoch, step (None after an epoch) and values by their
    names; the last ones that were all finite, if any were."""
    wrong = [f"{name} is {value}" for name, value in found["values"].items() if not math.isfinite(value)]
    message = f"diverged: {', '.join(wrong)} in {_moment(found)}"
    if last is not None:
        finite = ", ".join(f"{name} {value:.4g}" for name, value in last["values"].items())
        message += f"; last finite in {_moment(last)}: {finite}"
    told = {name: value if math.isfinite(value) else str(value) for name, value in found["values"].items()}
    return TrainingFailed(message, found | {"values": told, "last_finite": last})


def _moment(of: dict) -> str:
    return f"epoch {of['epoch']}" if of["step"] is None else f"step {of['step']} of epoch {of['epoch']}"


def _passed(values: Tensor) -> torch.cuda.Event | None:
    """What happens on the GPU once the values have been copied from it."""
    if values.device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record()
    return event
