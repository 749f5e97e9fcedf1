"""Positions for the report's figures, in percent of the plotting area, so that the page draws them at any width."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high` (their logarithms where `log`), with (position in percent, text) for each tick."""

    low: float
    high: float
    ticks: list[tuple[float, str]]
    log: bool = False

    def place(self, value: float | None) -> float | None:
        """Position of a value, 0 to 100 from low to high; None for none."""
        if value is None:
            return None
        return round(_percent(math.log10(value) if self.log else value, self.low, self.high), 3)


def axis(values, count: int = 5) -> Axis:
    """A linear axis around the finite `values` with about `count` round ticks."""
    finite = [value for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    pad = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad
    step = _round_step((high - low) / count)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Axis(low, high, [(round(_percent(mark, low, high), 3), _text(mark, digits)) for mark in marks])


def loss_axis(values) -> Axis:
    """The axis of a loss: linear, or logarithmic where positive losses span more than a factor of 50."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0 or max(finite) / min(finite) <= 50:
        return axis(finite, count=6)
    low, high = math.log10(min(finite)), math.log10(max(finite))
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    powers = range(math.ceil(low), math.floor(high) + 1)
    marks = [power for power in powers if power % max(1, len(powers) // 4) == 0]
    return Axis(low, high, [(round(_percent(mark, low, high), 3), f"{10.0**mark:g}") for mark in marks], log=True)


def curves(histories: dict[str, pd.DataFrame]) -> dict | None:
    """Training curves of several runs in one panel, None where no run has an epoch.

    histories: label of the run -> history.csv. Returns {"x", "y" (Axis), "lines": [{"run", "set", "pieces"}],
    "marks": [{"run", "x", "y", "epoch", "loss"}]}: pieces are SVG point lists between non-finite losses, marks the
    epochs with the lowest validation loss; y grows downwards, as in SVG. Epoch 0, before any training, is left out.
    """
    histories = {run: history[history["epoch"] > 0] for run, history in histories.items()}
    histories = {run: history for run, history in histories.items() if len(history)}
    if not histories:
        return None
    losses = pd.concat([history[["train_loss", "validation_loss"]] for history in histories.values()])
    y = loss_axis(losses.to_numpy(float).ravel())
    last = max(int(history["epoch"].max()) for history in histories.values())
    x = _epoch_axis(last)
    lines, marks = [], []
    for run, history in histories.items():
        for name in ("train", "validation"):
            lines.append({"run": run, "set": name, "pieces": _pieces(history["epoch"], history[f"{name}_loss"], x, y)})
        finite = history[np.isfinite(history["validation_loss"].astype(float))]
        if len(finite):
            best = finite.loc[finite["validation_loss"].astype(float).idxmin()]
            place = {"x": x.place(best["epoch"]), "y": round(100 - y.place(best["validation_loss"]), 3)}
            marks.append({"run": run, "epoch": int(best["epoch"]), "loss": float(best["validation_loss"])} | place)
    return {"x": x, "y": y, "lines": lines, "marks": marks}


def _pieces(epochs, losses, x: Axis, y: Axis) -> list[str]:
    pieces, points = [], []
    for epoch, loss in zip(epochs, losses.astype(float), strict=True):
        if math.isfinite(loss):
            points.append(f"{x.place(epoch):g},{100 - y.place(loss):.3f}")
        else:
            pieces, points = [*pieces, points], []
    return [" ".join(piece) for piece in [*pieces, points] if len(piece) > 1]


def _epoch_axis(last: int) -> Axis:
    step = max(1, int(_round_step(max(last, 1) / 4)))
    low, high = 1 - 0.03 * last, last + 0.03 * last
    marks = sorted({1, *range(step, last + 1, step)})
    return Axis(low, high, [(round(_percent(mark, low, high), 3), str(mark)) for mark in marks])


def _round_step(step: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _percent(value: float, low: float, high: float) -> float:
    return 100 * (value - low) / (high - low)


def _text(value: float, digits: int) -> str:
    return f"{value + 0.0:.{digits}f}".replace("-", "−")
