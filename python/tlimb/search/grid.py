"""Grid search: every point of a space of lists, in one round."""

from dataclasses import dataclass

from tlimb.search.ask import Draft, Step
from tlimb.search.study import Study
from tlimb.search_settings import Search


@dataclass(frozen=True)
class Grid:
    """Every point once, those of the study that is extended first."""

    search: Search
    epochs: int
    rounds: int = 1

    def ask(self, study: Study, draft: Draft) -> None:
        """Put every point into the draft."""
        draft.repeat([point for points in study.again for point in points])
        draft.fill(draft.pool.space.every(), None)

    def plan(self, points: int) -> list[Step]:
        """One round of all points."""
        return [Step(1, points, self.epochs, self.epochs)]
