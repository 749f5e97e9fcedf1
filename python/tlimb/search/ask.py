"""What a search asks for next: one interface for all methods, pure in the study so far and the search's seed."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from tlimb.files import canonical_json
from tlimb.search.points import Space
from tlimb.search.study import Study

UNTRAINABLE = "cannot be trained"
"""Why a point is left out that lies in the space and has problems of its own."""


class Pool(Protocol):
    """What points come to.

    identity: equal for points that come to the same trials, None for one that cannot be trained.
    usual: the variant of a key that is meant where a point lacks it, None where there is none.
    """

    space: Space

    def identity(self, point: dict) -> str | None: ...

    def usual(self, key: str) -> int | None: ...


@dataclass(frozen=True)
class Wanted:
    """A point to be tried. budget: epochs of the last stage, all of them where None."""

    point: dict
    why: str
    budget: int | None = None
    bracket: int | None = None


@dataclass(frozen=True)
class Step:
    """A part of a plan: points that train to a budget, and how many epochs each of them trains anew."""

    round: int
    points: int
    budget: int
    epochs: int


class Method(Protocol):
    """A way to search.

    rounds: how many it takes at most. ask: put what the next round tries into a draft. plan: what all rounds of so many
    points come to at most.
    """

    rounds: int

    def ask(self, study: Study, draft: "Draft") -> None: ...

    def plan(self, points: int) -> list[Step]: ...


@dataclass
class Draft:
    """A round in the making: no point twice, none that was asked before, none that `unless` names.

    left_out: points that cannot be trained, or that lie outside the space, and why.
    """

    pool: Pool
    taken: set[str]
    wanted: list[Wanted] = field(default_factory=list)
    left_out: list[tuple[dict, str]] = field(default_factory=list)
    _refused: set[str] = field(default_factory=set)

    def add(self, point: dict, why: str, budget: int | None = None, bracket: int | None = None) -> bool:
        """Whether a point is new, and now wanted."""
        if self.pool.space.left_out(point) is not None:
            return False
        identity = self.pool.identity(point)
        if identity is None:
            self.refuse(point, UNTRAINABLE)
        if identity is None or identity in self.taken:
            return False
        self.taken.add(identity)
        self.wanted.append(Wanted(point, why, budget, bracket))
        return True

    def go_on(self, point: dict, budget: int, bracket: int) -> None:
        """Let a point train on to a larger budget."""
        self.wanted.append(Wanted(point, "continued", budget, bracket))

    def assign(self, budgets: list[int], brackets: list[int]) -> None:
        """Give each wanted point its budget and bracket."""
        told = zip(self.wanted, budgets, brackets)
        self.wanted = [replace(wanted, budget=budget, bracket=bracket) for wanted, budget, bracket in told]

    def refuse(self, point: dict, why: str) -> None:
        """Tell of a point, once, that it is not asked for."""
        text = canonical_json(point)
        if text not in self._refused:
            self._refused.add(text)
            self.left_out.append((point, why))

    def fill(self, draws: Iterator[dict], count: int | None, patience: int | None = None, **told) -> int:
        """Add the next `count` new points of some draws (all where None), until `patience` draws in a row brought
        nothing new; returns how many there were."""
        added = misses = 0
        while added != count and misses != patience:
            draw = next(draws, None)
            if draw is None:
                break
            new = self.add(self.pool.space.point(draw), "startup", **told)
            added, misses = added + new, 0 if new else misses + 1
        return added

    def repeat(self, points: list[dict]) -> int:
        """Add points of an earlier study as far as they lie in the space; returns how many."""
        added = 0
        for point in points:
            draw = self.pool.space.locate(point, self.pool.usual)
            located = None if draw is None else self.pool.space.point(draw)
            if located is None:
                self.refuse(point, "a point of the study before that does not lie in the space")
            elif self.pool.space.left_out(located) is not None:
                self.refuse(point, "a point of the study before that `unless` leaves out now")
            else:
                added += self.add(located, "repeated")
        return added


def draft_of(study: Study, pool: Pool) -> Draft:
    """An empty draft of the round after those of a study."""
    identities = {pool.identity(asked.point) for one in study.rounds for asked in one.points}
    return Draft(pool, identities - {None})


def ask(study: Study, method: Method, pool: Pool) -> Draft:
    """What the round after those of a study tries."""
    draft = draft_of(study, pool)
    method.ask(study, draft)
    return draft
