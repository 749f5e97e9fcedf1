"""Successive halving, Hyperband, and both with proposals of a model: most candidates train for few epochs only."""

from math import ceil

from tlimb.errors import Problem
from tlimb.search.ask import Draft, Step
from tlimb.search.bayes import propose
from tlimb.search.points import Space
from tlimb.search.sampled import spread
from tlimb.search.study import Asked, Study, preference
from tlimb.search_settings import Halving, Search
from tlimb.seeds import seed_for


def rungs(halving: Halving, epochs: int) -> list[int]:
    """The budgets of the rungs: least * reduction^k while that is below the stage's epochs, and these in the end."""
    budget = halving.least or ceil(epochs / halving.reduction**2)
    budgets = []
    while budget < epochs:
        budgets.append(budget)
        budget *= halving.reduction
    return [*budgets, epochs]


def shares(points: int, starts: list[int], rung_count: int, reduction: int) -> list[int]:
    """How many of `points` each bracket begins with, at least one each.

    starts: the rung with which each begins. As in Hyperband (Li et al. 2018, JMLR 18, algorithm 1), a bracket with s
    rungs after its first begins with a number proportional to reduction^s (s_max + 1) / (s + 1), so that all spend
    about as much. Remainders go to the first brackets.
    """
    left = [rung_count - 1 - start for start in starts]
    weights = [reduction**s * rung_count / (s + 1) for s in left]
    sizes = [max(1, int(points * weight / sum(weights))) for weight in weights]
    for i in range(max(0, points - sum(sizes))):
        sizes[i % len(sizes)] += 1
    while sum(sizes) > points and max(sizes) > 1:
        sizes[sizes.index(max(sizes))] -= 1
    return sizes


def halving_problems(search: Search, epochs: int, space: Space) -> list[Problem]:
    """What does not go together in the settings of halving."""
    halving, problems = search.halving, []
    if halving.least is not None and halving.least >= epochs:
        message = f"expected fewer than the {epochs} epochs of the last stage, found {halving.least}"
        return [Problem("search.halving.least", message)]
    count = len(rungs(halving, epochs))
    if halving.brackets > count:
        message = f"expected at most {count}, one for each rung ({_listed(rungs(halving, epochs))} epochs)"
        problems.append(Problem("search.halving.brackets", f"{message}, found {halving.brackets}"))
    if search.points is None and not space.finite:
        message = "missing; a space with distributions has no end of points to begin with"
        problems.append(Problem("search.points", message, "say how many candidates begin"))
    if search.points is not None and search.points < halving.brackets:
        problems.append(Problem("search.points", f"expected one for each of the {halving.brackets} brackets at least"))
    return problems


def _listed(budgets: list[int]) -> str:
    return ", ".join(map(str, budgets))


class SuccessiveHalving:
    """Rungs of growing budgets; of n candidates the best ceil(n / reduction) on validation go on from each.

    Jamieson, Talwalkar (2016), "Non-stochastic best arm identification", AISTATS. Hyperband (Li et al. 2018) runs
    several brackets side by side, each of which begins one rung further up with fewer candidates. With a model (Falkner
    et al. 2018, "BOHB", ICML) a bracket begins each round, `search.rounds` of them, while the ones before go on; its
    candidates are proposed from the results at the largest budget of which there are more than choices in the space.
    """

    def __init__(self, search: Search, epochs: int, space: Space):
        self.search, self.epochs, self.space = search, epochs, space
        self.budgets = rungs(search.halving, epochs)
        parts = min(search.rounds, search.points) if search.method == "bayes+halving" else search.halving.brackets
        self.first_rungs = [part % search.halving.brackets for part in range(parts)]
        staggered = search.method == "bayes+halving"
        self.first_rounds = [1 + part * staggered for part in range(parts)]
        ends = [start + len(self.budgets) - 1 - rung for start, rung in zip(self.first_rounds, self.first_rungs)]
        self.rounds = max(ends)

    @property
    def reduction(self) -> int:
        """One of so many goes on from a rung."""
        return self.search.halving.reduction

    def ask(self, study: Study, draft: Draft) -> None:
        """Put the next rung of every bracket that runs, and the first of one that begins, into the draft."""
        number = len(study.rounds) + 1
        for bracket, (start, rung) in enumerate(zip(self.first_rounds, self.first_rungs)):
            if start < number and rung + number - start < len(self.budgets):
                self._continue(study, draft, bracket, self.budgets[rung + number - start])
        beginning = [bracket for bracket, start in enumerate(self.first_rounds) if start == number]
        if self.search.method == "bayes+halving":
            for bracket in beginning:
                budget = self.budgets[self.first_rungs[bracket]]
                size = self._sizes(self.search.points)[bracket]
                propose(self.search, study, self._known(study), draft, size, budget=budget, bracket=bracket)
        elif beginning:
            self._begin(draft)

    def _sizes(self, points: int) -> list[int]:
        return shares(points, self.first_rungs, len(self.budgets), self.reduction)

    def _continue(self, study: Study, draft: Draft, bracket: int, budget: int) -> None:
        """The best of a bracket's last rung, all of whose trials are known; none that failed whole."""
        last = [asked for asked in study.rounds[-1].points if asked.bracket == bracket]
        best = sorted(last, key=preference(study))[: ceil(len(last) / self.reduction)]
        for asked in best:
            if asked.value is not None:
                draft.go_on(asked.point, budget, bracket)

    def _begin(self, draft: Draft) -> None:
        """Points of the sequence, or all there are, dealt out to the brackets."""
        if self.search.points is None:
            draft.fill(self.space.every(), None)
        else:
            spread(self.search, draft, self.search.points)
        found = draft.wanted
        if len(self.first_rungs) > 1:
            found.sort(key=lambda wanted: seed_for(self.search.seed, "bracket", draft.pool.identity(wanted.point)))
        sizes = self._sizes(len(found))
        owners = [bracket for bracket, size in enumerate(sizes) for _ in range(size)][: len(found)]
        budgets = [self.budgets[self.first_rungs[bracket]] for bracket in owners]
        draft.assign(budgets, owners)

    def _known(self, study: Study) -> list[Asked]:
        """What was asked at the largest budget with d + 2 values or more, d the number of choices, as in BOHB, else at
        the smallest."""
        told = [asked for asked in study.asked() if asked.failed or asked.value is not None]
        enough = len(self.space.choices) + 1
        for budget in reversed(self.budgets):
            known = [asked for asked in told if asked.budget == budget]
            if sum(asked.value is not None for asked in known) > enough:
                return known
        return [asked for asked in told if asked.budget == self.budgets[0]]

    def plan(self, points: int) -> list[Step]:
        """The rungs of every bracket."""
        steps = []
        for size, start, first in zip(self._sizes(points), self.first_rounds, self.first_rungs):
            before = 0
            for place, budget in enumerate(self.budgets[first:]):
                steps.append(Step(start + place, size, budget, budget - before))
                size, before = ceil(size / self.reduction), budget
        return sorted(steps, key=lambda step: step.round)
