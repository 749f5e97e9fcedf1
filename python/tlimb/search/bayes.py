"""Bayesian search: Optuna's samplers propose a batch of points from what came out so far."""

import warnings
from collections.abc import Sequence

from tlimb.search.ask import Draft, Step
from tlimb.search.points import Space
from tlimb.search.sampled import spread
from tlimb.search.sampling import short
from tlimb.search.study import Asked, Study
from tlimb.search_settings import Search
from tlimb.seeds import seed_for

TRIES = 20
"""Proposals for each point that is wanted; those that repeat a point or cannot be trained are not used."""


class Bayes:
    """A first batch from a sequence, then batches that a model of the results proposes.

    sampler `tpe`: the tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms for hyper-parameter
    optimization"), which draws where l(x) / g(x) is largest, l the density of the best points and g that of the others;
    multivariate (Falkner et al. 2018, BOHB) within each part of the space that is active together. sampler `gp`: a
    Gaussian process with expected improvement. Points of a batch keep away from each other: those proposed before count
    as not good (constant liar; Ginsbourger et al. 2010).
    """

    def __init__(self, search: Search, epochs: int):
        self.search, self.epochs = search, epochs
        self.rounds = min(search.rounds, search.points)

    def ask(self, study: Study, draft: Draft) -> None:
        """Put the next batch into the draft."""
        number, before = len(study.rounds) + 1, sum(len(one.points) for one in study.rounds)
        earlier = study.again[:1] if number < self.rounds else study.again
        given = draft.repeat([point for points in earlier for point in points][: self.search.points - before])
        if given and number < self.rounds:
            return
        left = max(0, self.search.points - before - given)
        propose(self.search, study, study.asked(), draft, batches(left, self.rounds - number + 1)[0])

    def plan(self, points: int) -> list[Step]:
        """A batch a round, the remainder of the division in the first ones."""
        sizes = batches(points, self.rounds)
        return [Step(i, size, self.epochs, self.epochs) for i, size in enumerate(sizes, start=1)]


def batches(points: int, rounds: int) -> list[int]:
    """`points` in `rounds` parts that differ by at most one, the larger ones first."""
    rounds = max(1, rounds)
    return [points // rounds + (i < points % rounds) for i in range(rounds)]


def propose(search: Search, study: Study, known: Sequence[Asked], draft: Draft, count: int, **told) -> None:
    """Add `count` points to a draft: proposed from what is known, or from the search's sequence where nothing is, or
    where proposals bring nothing new.

    known: what was asked before, with values; what had to be left out counts as failed.
    """
    told_of = [(asked.point, asked.value) for asked in known]
    told_of += [(left.point, None) for one in study.rounds for left in one.left_out]
    found = [(draft.pool.space.locate(point), value) for point, value in told_of]
    found = [(draw, value) for draw, value in found if draw is not None]
    added = 0
    if count and draft.pool.space.choices and any(value is not None for _, value in found):
        seed = seed_for(search.seed, search.sampler, len(study.rounds) + 1, told.get("bracket", "")) % 2**32
        added = _proposed(_model(search.sampler, study.direction, seed, draft.pool.space, found), draft, count, **told)
    spread(search, draft, count - added, **told)


def _model(sampler: str, direction: str, seed: int, space: Space, found: list[tuple[dict, float | None]]):
    """An Optuna study in memory that holds what is known; points that failed are told as failed."""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if sampler == "gp":
            chosen = optuna.samplers.GPSampler(seed=seed, n_startup_trials=2, warn_independent_sampling=False)
        else:
            chosen = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=1, multivariate=True, group=True, constant_liar=True
            )
    model = optuna.create_study(sampler=chosen, direction={"max": "maximize", "min": "minimize"}[direction])
    for draw, value in found:
        told = {"state": TrialState.FAIL} if value is None else {"value": value}
        kinds = {address: _distribution(space.choices[address]) for address in draw}
        model.add_trial(create_trial(params=draw, distributions=kinds, **told))
    return model


def _distribution(choice):
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if choice.kind == "variants":
        return CategoricalDistribution(range(len(choice.options)))
    kind = IntDistribution if "int" in choice.kind else FloatDistribution
    return kind(choice.low, choice.high, log=choice.kind.startswith("log"))


def _proposed(model, draft: Draft, count: int, **told) -> int:
    """Ask a model until `count` points are new; returns how many were. One that repeats a point stays open in the
    model, which then looks elsewhere; one that cannot be trained is told as failed."""
    from optuna.trial import TrialState

    space, added = draft.pool.space, 0
    for _ in range(TRIES * count):
        if added == count:
            break
        trial = model.ask()
        draw = space.draw(lambda choice: _suggested(trial, choice))
        point = space.point(draw)
        added += draft.add(point, "asked", **told)
        if space.left_out(point) is not None or draft.pool.identity(point) is None:
            model.tell(trial, state=TrialState.FAIL)
    return added


def _suggested(trial, choice) -> float:
    """What a trial of the model is for a choice."""
    log = choice.kind.startswith("log")
    if choice.kind == "variants":
        return trial.suggest_categorical(choice.address, range(len(choice.options)))
    if "int" in choice.kind:
        return trial.suggest_int(choice.address, choice.low, choice.high, log=log)
    return short(choice, trial.suggest_float(choice.address, choice.low, choice.high, log=log))
