"""Points of a space that nothing is known of, spread evenly or drawn independently."""

import math
from collections.abc import Iterator

import numpy as np

from tlimb.search.grammar import Choice
from tlimb.search.points import Space

BLOCK = 64
"""Rows drawn at once; a power of 2, as Sobol's sequence wants."""


def sequence(space: Space, kind: str, seed: int) -> Iterator[dict]:
    """Draws of a space without end; the first n are the same however many follow.

    Every choice owns a column of the sequence, whether it is active or not, so a list is cut into equal cells of the
    unit interval and a distribution is its inverse distribution function. kind: ``sobol`` (Sobol 1967, scrambled as by
    Owen 1998 and Matousek 1998), ``halton`` (Halton 1960, scrambled as by Owen 2017) or ``independent``.
    """
    columns = {address: column for column, address in enumerate(sorted(space.choices))}
    for row in _rows(kind, max(1, len(columns)), seed):
        yield space.draw(lambda choice: at(choice, row[columns[choice.address]]))


def _rows(kind: str, width: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of numbers of at least 0 and below 1."""
    generator = np.random.default_rng(seed)
    if kind == "independent":
        while True:
            yield from generator.random((BLOCK, width))
    from scipy.stats import qmc

    engine = {"sobol": qmc.Sobol, "halton": qmc.Halton}[kind](width, scramble=True, rng=generator)
    while True:
        yield from engine.random(BLOCK)


def at(choice: Choice, share: float) -> float:
    """What a choice is at a share of its distribution, which is at least 0 and below 1.

    Whole numbers are equally likely, or of log_int as likely as their share of the logarithmic scale. Other numbers
    have four significant digits, so that they can be read and written.
    """
    low, high = choice.low, choice.high
    if choice.kind == "variants":
        return int(share * len(choice.options))
    if choice.kind == "int":
        return low + int(share * (high - low + 1))
    if choice.kind == "log_int":
        low_end, high_end = math.log(low - 0.5), math.log(high + 0.5)
        return min(high, max(low, round(math.exp(low_end + share * (high_end - low_end)))))
    if choice.kind == "log_uniform":
        return short(choice, math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
    return short(choice, low + share * (high - low))


def short(choice: Choice, number: float) -> float:
    """A number of a distribution with four significant digits, within its ends."""
    return min(float(choice.high), max(float(choice.low), float(f"{number:.4g}")))
