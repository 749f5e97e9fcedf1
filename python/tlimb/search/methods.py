"""The method of a search by its name."""

from tlimb.errors import InputError, Problem
from tlimb.search.ask import Method
from tlimb.search.bayes import Bayes
from tlimb.search.grid import Grid
from tlimb.search.halving import SuccessiveHalving, halving_problems
from tlimb.search.points import Space
from tlimb.search.sampled import Random
from tlimb.search_settings import MOST_ROUNDS, Search


def method_of(search: Search, epochs: int, space: Space) -> Method:
    """The method of a sweep's search. epochs: of the whole last stage. Raises InputError where its settings do not go
    together, or where it would take more rounds than there can be."""
    if search.method == "grid" and search.points is not None:
        message = "method grid tries every point of the space"
        raise InputError([Problem("search.points", message, "leave it out, or use method random")])
    if search.method in ("grid", "random", "bayes"):
        return {"grid": Grid, "random": Random, "bayes": Bayes}[search.method](search, epochs)
    problems = halving_problems(search, epochs, space)
    if problems:
        raise InputError(problems)
    method = SuccessiveHalving(search, epochs, space)
    if method.rounds > MOST_ROUNDS:
        message = f"method {search.method} needs {method.rounds} rounds here, and there are at most {MOST_ROUNDS}"
        now = f"a larger `reduction`, {search.halving.reduction} now, or `least`, {method.budgets[0]} now"
        fewer = " or fewer `search.rounds`" if search.method == "bayes+halving" else ""
        raise InputError([Problem("search.halving", message, f"expected fewer rungs ({now}){fewer}")])
    return method
