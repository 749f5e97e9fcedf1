"""Runs that would tell why a learning curve is as it is, as parts of a sweep that are ready to be merged."""

from tlimb import registry
from tlimb.ranking.power_law import LEAST_REPLICATES, LEAST_SIZES
from tlimb.ranking.results import Results

SITES = ("site", "scanner", "center", "centre")
"""Label columns that are taken for the place of a scan, the first that the cohort has."""


def next_runs(status: str, row: dict, sizes: list[int], results: Results) -> list[dict]:
    """{"title", "why", "sweep"} of each run that would tell more about a curve of this status; none for a power law,
    and none where nothing is trained: that curve is flat by itself.

    row: the candidate chosen at the largest n.
    """
    if status == "power law" or row["spec"]["stages"][-1]["strategy"] == "direct":
        return []
    runs = [_more_sizes(sizes, results)] if status in ("too few points", "no limit", "plateau") else []
    if status in ("plateau", "not monotone", "no power law"):
        runs += [run for run in (_wider(row), _longer(row), _one_site(row, results)) if run]
    return runs


def _more_sizes(sizes: list[int], results: Results) -> dict:
    replicates = max(LEAST_REPLICATES, results.sweep.get("split", {}).get("replicates") or 0)
    more = sorted({*sizes, max(2, sizes[0] // 2), 2 * sizes[-1], *_between(sizes)})
    sweep = {"split": {"replicates": replicates}, "search": {"space": {"split.n": more}}}
    why = f"a fit needs {LEAST_SIZES} sizes and {LEAST_REPLICATES} replicates, and its end is where it goes"
    return {"title": "more sizes and replicates", "why": why, "sweep": sweep}


def _between(sizes: list[int]) -> list[int]:
    return [round((one * two) ** 0.5) for one, two in zip(sizes, sizes[1:])] if len(sizes) < LEAST_SIZES else []


def _wider(row: dict) -> dict | None:
    """Twice the width, where the architecture has one that says so."""
    spec = row["spec"]["architecture"]
    why = "a peak of double descent moves with the number of parameters; one of the data stays"
    given, name, key = spec["init_args"], spec["class_path"], "architecture.init_args"
    if isinstance(given.get("channels"), list):
        variants = {f"{key}.channels": [given["channels"], [2 * one for one in given["channels"]]]}
    elif isinstance(given.get("width"), (int, float)):
        variants = {f"{key}.width": [given["width"], 2 * given["width"]]}
    elif not registry.check("architecture", name, {"width": 0.5}, "architecture"):
        variants = {f"{key}.width": [1.0, 2.0]}
    else:
        return None
    return _run("twice the width", why, variants)


def _longer(row: dict) -> dict:
    stage = row["spec"]["stages"][-1]
    why = "large samples may need more steps, and double descent is one of training time, too"
    return _run("twice the epochs", why, {f"stages.{stage['name']}.epochs": [stage["epochs"], 2 * stage["epochs"]]})


def _one_site(row: dict, results: Results) -> dict | None:
    """The site with most scans alone, where there are several."""
    stage, labels = row["spec"]["stages"][-1], results.cohort["labels"]
    column = next((name for name in SITES if len(labels.get(name, {}).get("classes", [])) > 1), None)
    asked = stage["data"].get("labelled")
    if column is None or not asked or results.table is None or column not in results.table:
        return None
    rows = results.table[results.table["cohort"].isin(asked["cohort"])]
    counts = rows[column].dropna().astype(str).value_counts()
    if len(counts) < 2:
        return None
    largest = min(counts.index[counts == counts.max()])
    why = "a mixture of sites may bend a curve that each of them alone does not have; a run of its own, on fewer people"
    where = asked.get("where", {}) | {column: [largest]}
    return _run(f"{largest} alone", why, {f"stages.{stage['name']}.data.labelled.where": [where]})


def _run(title: str, why: str, space: dict) -> dict:
    return {"title": title, "why": why, "sweep": {"search": {"space": space}}}
