"""Training histories of what was selected and of pretrainings, and what pretrainings score by themselves."""

from tlimb.evaluation.metrics import DEFAULT
from tlimb.ranking.answer import WORDS, decimals
from tlimb.ranking.figures import curves
from tlimb.ranking.names import trial_name
from tlimb.ranking.rank import Ranking
from tlimb.ranking.results import Results


def model_curves(results: Results, ranking: Ranking) -> list[dict]:
    """A panel of loss curves for each selected candidate."""
    panels = []
    for row in ranking.selected():
        histories = {trial_name(trial): results.model_history(trial["id"]) for trial in row["trials"]}
        panels.append(_panel(row["name"], histories))
    return [panel for panel in panels if panel]


def encoder_curves(groups: dict[str, list[dict]], results: Results, most: int) -> list[dict]:
    """A panel of loss curves for each of the first groups of pretrainings, `most` of them."""
    panels = []
    for name, lines in list(groups.items())[:most]:
        runs = {f"seed {line['seed']}, {line['id'][:6]}": results.encoder_history(line["id"]) for line in lines}
        panels.append(_panel(name, runs))
    return [panel for panel in panels if panel]


def _panel(title: str, histories: dict) -> dict | None:
    found = curves({run: history for run, history in histories.items() if history is not None})
    return found and found | {"title": title, "runs": len(found["lines"]) // 2}


def pretrainings(groups: dict[str, list[dict]], results: Results) -> list[dict]:
    """One row a pretraining, with the default metric of each of its targets on its own held-out part."""
    rows = []
    for name, line in [(name, line) for name, lines in groups.items() for line in lines]:
        encoder = results.encoders.get(line["id"], {"status": "failed"})
        row = {"id": line["id"], "name": name, "seed": line["seed"], "status": encoder["status"]}
        row |= {"scores": [], "persons": None}
        row |= {key: encoder.get(key) for key in ("best_epoch", "epochs_run", "seconds")}
        scores = results.pretraining_scores(line["id"]) if encoder["status"] == "ok" else None
        if scores and scores["status"] == "ok":
            row["persons"] = scores["n"]["persons"]
            row["scores"] = [_headline(target, facts) for target, facts in scores["targets"].items()]
            row["scores"] += _losses(scores.get("loss", {}))
        rows.append(row)
    return rows


def _headline(target: str, facts: dict) -> dict:
    metric = DEFAULT[facts["kind"]]
    found = facts["metrics"].get(metric) or {"value": None, "low": None, "high": None}
    return found | {"target": target, "metric": WORDS[metric], "digits": decimals(found["low"], found["high"])}


def _losses(losses: dict) -> list[dict]:
    """What a stage without targets minimises, on its held-out images."""
    words = {"mse": "mean squared error", "l1": "mean absolute error"}
    target = {name: "reconstruction" if name in words else "no labels" for name in losses}
    return [
        found | {"target": target[name], "metric": words.get(name, name), "digits": 4} for name, found in losses.items()
    ]
