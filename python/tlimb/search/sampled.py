"""Random search: points of a sequence, in one round."""

from dataclasses import dataclass

from tlimb.search.ask import Draft, Step
from tlimb.search.sampling import sequence
from tlimb.search.study import Study
from tlimb.search_settings import Search
from tlimb.seeds import seed_for


PATIENCE = 2048
"""Draws in a row that bring nothing new, after which the rest of a space is counted through."""
COUNTABLE = 100_000


def spread(search: Search, draft: Draft, count: int, **told) -> int:
    """Add the next `count` points of the search's sequence to a draft, and, where it brings nothing new any more, what
    is left of a finite space; returns how many there were."""
    space = draft.pool.space
    drawn = sequence(space, search.sequence, seed_for(search.seed, "sequence"))
    added = draft.fill(drawn, count, PATIENCE, **told)
    if added < count and space.finite and space.most <= COUNTABLE:
        added += draft.fill(space.every(), count - added, **told)
    return added


@dataclass(frozen=True)
class Random:
    """The first points of a sequence (Bergstra, Bengio 2012, "Random search for hyper-parameter optimization", JMLR),
    after those of the study that is extended."""

    search: Search
    epochs: int
    rounds: int = 1

    def ask(self, study: Study, draft: Draft) -> None:
        """Put as many points into the draft as the search asks for."""
        given = draft.repeat([point for points in study.again for point in points][: self.search.points])
        spread(self.search, draft, self.search.points - given)

    def plan(self, points: int) -> list[Step]:
        """One round of all points."""
        return [Step(1, points, self.epochs, self.epochs)]
