"""Which trials are explained: of each selected candidate its first finished one."""

from pathlib import Path

from tlimb.files import write_json
from tlimb.ranking.results import Results
from tlimb.ranking.selection import ranked_candidates, ranked_measure, select


def selected_trials(results: Results) -> list[dict]:
    """The content of selected.json's "trials", the best candidate first: id, candidate, name, selected and init, the
    metric that ranks, and "columns", {"kind"} of each label column by which features are harmonised.

    Candidates are selected as RANK selects them, on validation alone: the best, and the best of each other strategy.
    The trial of each is the finished one with the lowest seed, repeat, fold, inner fold and replicate. None where
    nothing finished.
    """
    target, measure = ranked_measure(results)
    lines = {trial["id"]: trial for trial in results.trials}
    more, found = {"metric": measure.metric, "columns": _columns(results)}, []
    for row in select(ranked_candidates(results, target, measure)):
        trial = next(one["id"] for one in row["trials"] if one["status"] == "ok")
        facts = {name: row[name] for name in ("candidate", "name", "selected")}
        found.append({"id": trial} | facts | {"init": lines[trial]["init"]} | more)
    return found


def _columns(results: Results) -> dict[str, dict]:
    evaluate = results.sweep.get("evaluate", {})
    labels = results.cohort["labels"] | {"cohort": {"kind": "classification"}}
    names = [name for name in [evaluate.get("harmonise"), *evaluate.get("keeping", [])] if name]
    return {name: {"kind": labels[name]["kind"]} for name in dict.fromkeys(names)}


def write_selected(results: Results, path: Path) -> list[dict]:
    """Write selected.json; its trials."""
    trials = selected_trials(results)
    write_json(path, {"trials": trials})
    return trials
