"""What the candidates cost beside what they reach.

As it stands in ranking.json: rows of candidates have "seconds" (of their own trainings), "pretraining_seconds" (of the
distinct pretrainings that these start from, each counted whole, as if the candidate had been tried alone) and "pareto":
true where no other candidate is at least as good in score on validation, seconds in all and parameters, and better in
one of them; null where a trial of a candidate failed, it was not fully trained or its time or size is not known. And

    "cost": {"stages": [{"stage": "pretrain", "kind": "pretraining" | "fine-tuning", "trainings": 18,
                         "seconds": 9120.0, "gpu_seconds": 9120.0}, …],   in the order of training
             "seconds": 12345.6, "gpu_seconds": 9120.0, "reused": 4}

gpu_seconds are those of trainings on a device that is not "cpu"; reused counts trainings whose result was kept from an
earlier run, whose time counts as it was then.
"""

import numpy as np

from tlimb.ranking.results import Results


def cost(results: Results) -> dict:
    """The key `cost`: time of every training that said how long it took."""
    stages: dict[tuple[str, str], list[dict]] = {}
    for line in results.pretrainings:
        stages.setdefault((line["stage"], "pretraining"), []).append(results.encoders.get(line["id"], {}))
    for trial in results.trials:
        last = trial["spec"]["stages"][-1]["name"]
        stages.setdefault((last, "fine-tuning"), []).append(results.models.get(trial["id"], {}))
    names = [stage["name"] for stage in results.sweep["stages"]]
    order = sorted(stages, key=lambda key: (names.index(key[0]) if key[0] in names else len(names), key))
    rows = [{"stage": stage, "kind": kind} | _sums(stages[stage, kind]) for stage, kind in order]
    totals = {name: sum(row[name] for row in rows) for name in ("seconds", "gpu_seconds")}
    return {"stages": rows} | totals | {"reused": sum(bool(one.get("reused")) for one in results.models.values())}


def mark_pareto(results: Results, candidates: list[dict], direction: str) -> None:
    """Fill "pretraining_seconds" and "pareto" of the rows of ranking.json."""
    parents = {line["id"]: line["parent"] for line in results.pretrainings}
    starts: dict[str, set[str]] = {}
    for trial in results.trials:
        starts.setdefault(trial["candidate"], set()).add(trial["init"])
    for row in candidates:
        row["pretraining_seconds"] = _pretraining_seconds(results, starts[row["candidate"]], parents)
    rows = [row for row in candidates if row["budget"] == row["epochs"] and not row["failed"]]
    rows = [row for row in rows if None not in _facts(row)]
    values = np.array([_facts(row) for row in rows], float).reshape(-1, 3)
    values[:, 0] *= -1 if direction == "max" else 1
    for row, best in zip(rows, on_front(values)):
        row["pareto"] = bool(best)


def on_front(values: np.ndarray) -> np.ndarray:
    """Which rows of values (n, d), all to be small, no other row is as small in everywhere and smaller in one, (n,)."""
    return np.array([not ((values <= one).all(axis=1) & (values < one).any(axis=1)).any() for one in values], bool)


def _facts(row: dict) -> tuple:
    known = row["seconds"] is not None and row["pretraining_seconds"] is not None
    return row["validation_mean"], row["seconds"] + row["pretraining_seconds"] if known else None, row["parameters"]


def _pretraining_seconds(results: Results, starts: set[str], parents: dict[str, str]) -> float | None:
    """Seconds of these pretrainings and all before them; None where one did not say."""
    needed: set[str] = set()
    for start in starts:
        while start in parents and start not in needed:
            needed.add(start)
            start = parents[start]
    seconds = [results.encoders.get(encoder, {}).get("seconds") for encoder in sorted(needed)]
    return None if None in seconds else float(sum(seconds))


def _sums(trainings: list[dict]) -> dict:
    known = [one for one in trainings if one.get("seconds") is not None]
    on_gpu = sum(one["seconds"] for one in known if one.get("device", "cpu") != "cpu")
    seconds = sum(one["seconds"] for one in known)
    return {"trainings": len(known), "seconds": float(seconds), "gpu_seconds": float(on_gpu)}
