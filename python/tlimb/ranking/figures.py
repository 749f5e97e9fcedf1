"""Positions for the report's figures, in percent of the plotting area, so that the page draws them at any width."""

import math
from dataclasses import dataclass, field

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
    """A linear axis around the finite `values` with about `count` round ticks, at least two."""
    finite = [value for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    pad = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad
    marks, finer = [], count
    while len(marks) < 2:
        step = _round_step((high - low) / finer)
        marks = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
        finer *= 1.5
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
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


def log_axis(values, count: int = 6) -> Axis:
    """A logarithmic axis around the positive `values`; ticks are these where they are few and short, else round."""
    finite = sorted({value for value in values if value is not None and math.isfinite(value) and value > 0})
    finite = finite or [1.0, 10.0]
    low, high = math.log10(finite[0]), math.log10(finite[-1])
    pad = 0.05 * (high - low) or 0.3
    low, high = low - pad, high + pad
    short = all(value in (round(value), float(f"{value:.3g}")) for value in finite)
    marks = finite if len(finite) <= count and short else _round_values(low, high, count)
    if len(marks) < 2:
        marks = [float(f"{value:.3g}") for value in (finite[0], finite[-1])]
    return Axis(low, high, [(round(_percent(math.log10(mark), low, high), 3), f"{mark:g}") for mark in marks], log=True)


def spread_axis(values, count: int = 5) -> Axis:
    """A logarithmic axis where all `values` are positive and span more than a factor of 20, else a linear one."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    wide = finite and min(finite) > 0 and max(finite) > 20 * min(finite)
    return log_axis(finite, count) if wide else axis(finite, count)


@dataclass(frozen=True)
class Series:
    """What a plot shows under one name: points, joined where `line`, with intervals or a band where there are any.

    x, y, low, high: numbers or None, of one length; texts: what each point is called. kind: a class of the style sheet.
    """

    name: str
    x: list
    y: list
    kind: str = "c0"
    low: list | None = None
    high: list | None = None
    texts: list[str] = field(default_factory=list)
    line: bool = False
    dots: bool = True
    band: bool = False
    dashed: bool = False


def plot(
    name: str,
    series: list[Series],
    *,
    titles: tuple[str, str],
    label: str,
    x: Axis,
    y: Axis | None = None,
    live: bool = False,
) -> dict:
    """A figure with two axes as the page draws it.

    name: its id.  titles: of the x and the y axis.  label: the figure in words.  y: made of the values where none is
    given.  live: whether the page may redraw it so that points can be pointed at; then `live` holds the numbers.
    """
    values = [value for one in series for side in (one.y, one.low or [], one.high or []) for value in side]
    y = y or axis(values)
    found = {"name": name, "titles": titles, "label": label, "x": x, "y": y, "live": None}
    found["series"] = [_drawn(one, x, y) for one in series]
    if live:
        found["live"] = {"titles": titles, "log": x.log, "series": [_numbers(one) for one in series]}
    return found


def _drawn(series: Series, x: Axis, y: Axis) -> dict:
    """One series in percent, y growing downwards as in SVG."""

    def down(value):
        return None if value is None else round(100 - y.place(value), 3)

    lows, highs = series.low or [None] * len(series.x), series.high or [None] * len(series.x)
    texts = series.texts or [""] * len(series.x)
    rows = [
        {"x": x.place(at), "y": down(value), "low": down(low), "high": down(high), "text": text}
        for at, value, low, high, text in zip(series.x, series.y, lows, highs, texts, strict=True)
        if at is not None and value is not None
    ]
    known = [row for row in rows if row["low"] is not None]
    edge = [(row["x"], row["low"]) for row in known] + [(row["x"], row["high"]) for row in reversed(known)]
    return {
        "name": series.name,
        "kind": series.kind,
        "dashed": series.dashed,
        "line": _points((row["x"], row["y"]) for row in rows) if series.line and len(rows) > 1 else "",
        "band": _points(edge) if series.band and len(known) > 1 else "",
        "dots": [row | ({"low": None} if series.band else {}) for row in rows] if series.dots else [],
    }


def _points(pairs) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in pairs)


def _numbers(series: Series) -> dict:
    """One series as plain numbers with five significant digits."""
    facts = {key: getattr(series, key) for key in ("name", "kind", "line", "dots", "dashed")}
    facts |= {key: [brief(value) for value in getattr(series, key)] for key in ("x", "y")}
    return facts | {"texts": series.texts}


def brief(value: float | None, digits: int = 5) -> float | None:
    """A number with so many significant digits, None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


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


def _round_values(low: float, high: float, count: int) -> list[float]:
    """Numbers between 10^low and 10^high: 1, 2 and 5 times a power of ten, or fewer where those are many."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        marks = [factor * 10.0**power for power in powers for factor in factors]
        marks = [mark for mark in marks if low <= math.log10(mark) <= high]
        if len(marks) <= count:
            return marks
    return marks[:: math.ceil(len(marks) / count)]


def _percent(value: float, low: float, high: float) -> float:
    return 100 * (value - low) / (high - low)


def _text(value: float, digits: int) -> str:
    return f"{value + 0.0:.{digits}f}".replace("-", "−")
