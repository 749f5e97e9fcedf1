"""What failed, and why."""

from collections import Counter

from tlimb.ranking.results import KEY, Results


def failures(results: Results, candidates: list[dict]) -> dict[str, list[dict]]:
    """The key `failures` of ranking.json: trials, pretrainings with how many trials start from them, and scans."""
    trials = [
        {"id": trial["id"], "candidate": row["candidate"], "name": row["name"]}
        | {name: trial[name] for name in (*KEY, "reason")}
        for row in candidates
        for trial in row["trials"]
        if trial["status"] != "ok"
    ]
    dependants = Counter(trial["init"] for trial in results.trials)
    pretrainings = []
    for line in results.pretrainings:
        encoder = results.encoders.get(line["id"], {"status": "failed", "reason": "no result was written"})
        if encoder["status"] != "ok":
            facts = {"id": line["id"], "stage": line["stage"], "seed": line["seed"], "reason": encoder["reason"]}
            pretrainings.append(facts | {"trials": dependants[line["id"]]})
    scans = results.scans[results.scans["status"] != "ok"][["scan_id", "recipe", "reason"]]
    return {"trials": trials, "pretrainings": pretrainings, "scans": scans.to_dict("records")}
