"""Results of several runs ranked together: methods over data sets, by mean rank.

merged.json:

    {"files": ["a/results.json", …], "datasets": [{"dataset", "digest", "metric", "direction", "n_persons"}],
     "methods": [{"method", "label", "mean_rank" (null where it lacks a dataset), "datasets": 3}],   best first
     "scores": [{"dataset", "method", "rank", "mean", "low", "high", "validation"}],
     "friedman": as in ranking.json, of the methods that have every dataset, or null, "notes": []}
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tlimb.errors import InputError, Problem
from tlimb.files import canonical_json, digest, read_json, write_csv, write_json, write_text
from tlimb.parse import parse
from tlimb.ranking.friedman import LEAST, friedman_of, mean_ranks
from tlimb.ranking.results_file import ResultsFile

ALPHA = 0.05
MEANING = (
    "A method is the candidate that was best of its kind on validation in its own run; its scores, with the intervals "
    "of that run, are on people whom nothing was chosen by. A mean rank is over all data sets, 1 the best."
)


@dataclass(frozen=True)
class Part:
    """One results.json: where it lies, the label that its methods get in front (may be empty), what it says."""

    path: Path
    label: str
    content: dict


def read_part(given: str) -> Part:
    """A part from `PATH` or `LABEL=PATH`, PATH a results.json or a folder of results.

    Raises InputError where there is none, or it is none.
    """
    label, _, place = given.rpartition("=")
    path = Path(place)
    tried = [path, path / "results.json", path / "ranking" / "results.json"]
    found = next((one for one in tried if one.is_file()), None)
    if found is None:
        raise InputError([Problem(place, "no such file, and no results.json or ranking/results.json in it")])
    document = read_json(found)
    if not isinstance(document, dict) or "format" not in document:
        raise InputError([Problem(str(found), "not a results file: expected a JSON object with the key `format`")])
    try:
        content = parse(ResultsFile, document).model_dump()
    except InputError as error:
        raise InputError([Problem(f"{found}: {one.where}", one.message, one.hint) for one in error.problems]) from None
    problems = _unsound(found, content)
    if problems:
        raise InputError(problems)
    return Part(found, label, content)


def merge(parts: list[Part]) -> dict:
    """The content of merged.json; the same whatever the order of `parts`.

    Raises InputError naming every part that is there twice, every dataset that two parts measured differently, with
    what differs, and every method that two parts of one label scored differently.
    """
    parts = sorted(parts, key=lambda part: (part.label, str(part.path)))
    datasets, scores, problems = _datasets(parts), _scores(parts), []
    problems += _twice(parts) or _other_protocols(parts, datasets) + _other_scores(parts, datasets, scores)
    if problems:
        raise InputError(problems)
    names = sorted(datasets)
    methods = sorted({method for _, method in scores})
    table = np.array([[scores.get((name, method), {"mean": np.nan})["mean"] for method in methods] for name in names])
    signs = np.array([1.0 if datasets[name]["protocol"]["direction"] == "max" else -1.0 for name in names])
    whole = np.isfinite(table).all(axis=0)
    ranks, friedman = _ranked(methods, names, table * signs[:, None], whole)
    rows = [_method_row(method, ranks.get(method), table[:, place]) for place, method in enumerate(methods)]
    rows.sort(key=lambda row: (row["mean_rank"] is None, row["mean_rank"], -row["datasets"], row["method"]))
    return {
        "files": [str(part.path) for part in parts],
        "datasets": [_dataset_row(datasets[name]) for name in names],
        "methods": rows,
        "scores": _score_rows(scores, names, methods, table * signs[:, None]),
        "friedman": friedman,
        "notes": _notes(names, methods, whole, friedman) + _same_people(datasets) + _same_trials(parts),
    }


def write_merged(merged: dict, out: Path) -> None:
    """Write merged.json, merged.csv and merged.md under `out`."""
    write_json(out / "merged.json", merged)
    write_csv(out / "merged.csv", pd.DataFrame(merged["scores"]))
    write_text(out / "merged.md", markdown(merged))


def markdown(merged: dict) -> str:
    """merged.json as a Markdown page: a row a method with its mean rank and its score on every dataset."""
    names = [row["dataset"] for row in merged["datasets"]]
    cells = {(row["dataset"], row["method"]): row for row in merged["scores"]}
    heads = [
        f"{row['dataset']} ({row['metric'].replace('_', ' ')}, {row['n_persons']} persons)".replace("|", "\\|")
        for row in merged["datasets"]
    ]
    lines = ["# Methods over data sets", "", f"From {', '.join(merged['files'])}.", ""]
    lines.append("| " + " | ".join(["method", "mean rank", *heads]) + " |")
    lines.append("|---|" + "---:|" * (len(names) + 1))
    for row in merged["methods"]:
        rank = "–" if row["mean_rank"] is None else f"{row['mean_rank']:.2f}"
        shown = [_cell(cells.get((name, row["method"]))) for name in names]
        lines.append("| " + " | ".join([row["method"].replace("|", "\\|"), rank, *shown]) + " |")
    return "\n".join([*lines, "", *(f"{note}\n" for note in [MEANING, *merged["notes"]])])


def _cell(score: dict | None) -> str:
    if score is None:
        return "–"
    interval = "" if score["low"] is None else f" ({score['low']:#.3g} to {score['high']:#.3g})"
    return f"{score['mean']:#.3g}{interval}"


def _unsound(path: Path, content: dict) -> list[Problem]:
    """Scores of datasets and methods that the file does not list, and protocols that are not those of their digest."""
    listed = {name: {row[name] for row in content[f"{name}s"]} for name in ("dataset", "method")}
    found = [
        Problem(f"{path}: scores[{place}].{name}", f"'{score[name]}' is not listed under {name}s")
        for place, score in enumerate(content["scores"])
        for name in ("dataset", "method")
        if score[name] not in listed[name]
    ]
    for place, row in enumerate(content["datasets"]):
        if digest(row["protocol"]) != row["digest"]:
            message = "is not that of the protocol beside it: the file was changed after it was written"
            found.append(Problem(f"{path}: datasets[{place}].digest", message))
    return found


def _twice(parts: list[Part]) -> list[Problem]:
    """Files that say what a file before them says."""
    first: dict[str, Part] = {}
    problems = []
    for part in parts:
        known = first.setdefault(canonical_json(part.content), part)
        if known is not part:
            same = part.path.resolve() == known.path.resolve()
            message = "is given twice" if same else f"has the same results as {known.path}"
            problems.append(Problem(str(part.path), f"{message}, which would count twice", "name each run once"))
    return problems


def _datasets(parts: list[Part]) -> dict[str, dict]:
    return {
        row["dataset"]: row | {"file": str(part.path)}
        for part in reversed(parts)
        for row in part.content["datasets"]
    }


def _scores(parts: list[Part]) -> dict[tuple[str, str], dict]:
    """(dataset, method with its label) -> score, of the first part that has it."""
    return {
        (score["dataset"], _labelled(part, score["method"])): score | {"file": str(part.path)}
        for part in reversed(parts)
        for score in part.content["scores"]
    }


def _labelled(part: Part, method: str) -> str:
    return f"{part.label}: {method}" if part.label else method


def _other_protocols(parts: list[Part], datasets: dict[str, dict]) -> list[Problem]:
    problems = []
    for part in parts:
        for row in part.content["datasets"]:
            known = datasets[row["dataset"]]
            if row["digest"] != known["digest"]:
                one, other = (_flat(each["protocol"]) for each in (row, known))
                keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
                told = "; ".join(f"{key} is {one.get(key)!r}, there {other.get(key)!r}" for key in keys)
                message = f"'{row['dataset']}' was measured otherwise than in {known['file']}: {told}"
                problems.append(Problem(str(part.path), message))
    return problems


def _other_scores(parts: list[Part], datasets: dict[str, dict], scores: dict[tuple[str, str], dict]) -> list[Problem]:
    """Methods with two scores on a dataset that both parts measured alike."""
    problems = []
    for part in parts:
        own = {row["dataset"]: row["digest"] for row in part.content["datasets"]}
        alike = {name for name, measured in own.items() if measured == datasets[name]["digest"]}
        for score in (one for one in part.content["scores"] if one["dataset"] in alike):
            method = _labelled(part, score["method"])
            known = scores[score["dataset"], method]
            if score["mean"] != known["mean"] or score["trials"] != known["trials"]:
                message = f"'{method}' has another score on '{score['dataset']}' in {known['file']}"
                hint = "give the files labels: ours=PATH theirs=PATH"
                problems.append(Problem(str(part.path), message, hint))
    return problems


def _flat(protocol: dict) -> dict:
    split = protocol["split"] or {}
    rest = {key: value for key, value in protocol.items() if key != "split"}
    return rest | {f"split.{key}": value for key, value in split.items()}


def _ranked(methods: list[str], names: list[str], table: np.ndarray, whole: np.ndarray) -> tuple[dict, dict | None]:
    """Mean rank of each method that has every dataset, and Friedman's test of these. table: (datasets, methods)."""
    complete = [method for method, has in zip(methods, whole) if has]
    if not complete:
        return {}, None
    ranks = dict(zip(complete, mean_ranks(table[:, whole], "max").tolist()))
    if min(len(names), len(complete)) < LEAST:
        return ranks, None
    return ranks, friedman_of([(method, method) for method in complete], names, table[:, whole], "max", ALPHA)


def _method_row(method: str, rank: float | None, column: np.ndarray) -> dict:
    return {"method": method, "mean_rank": rank, "datasets": int(np.isfinite(column).sum())}


def _dataset_row(row: dict) -> dict:
    protocol = {name: row["protocol"][name] for name in ("metric", "direction")}
    return {"dataset": row["dataset"], "digest": row["digest"], "n_persons": row["n_persons"]} | protocol


def _score_rows(scores: dict, names: list[str], methods: list[str], table: np.ndarray) -> list[dict]:
    """A row a score, by dataset, best first; rank counts the methods that have the dataset, 1 the best."""
    rows = []
    for place, name in enumerate(names):
        has = [number for number in range(len(methods)) if np.isfinite(table[place, number])]
        ranks = mean_ranks(table[place : place + 1, has], "max").tolist()
        for rank, number in sorted(zip(ranks, has)):
            score = scores[name, methods[number]]
            facts = {"dataset": name, "method": methods[number], "rank": rank}
            rows.append(facts | {key: score[key] for key in ("mean", "low", "high", "validation")})
    return rows


def _same_people(datasets: dict[str, dict]) -> list[str]:
    """Data sets that test the same people, as with several sizes of training: ranks on them go together."""
    named: dict[str, list[str]] = {}
    for name in sorted(datasets):
        named.setdefault(datasets[name]["protocol"]["people"], []).append(name)
    return [
        f"{', '.join(alike)} test the same people: they are no independent data sets, as Friedman's test has it."
        for alike in named.values()
        if len(alike) > 1
    ]


def _same_trials(parts: list[Part]) -> list[str]:
    """Scores that stand in several files with every trial alike, as those of a search and of its extension do."""
    found: dict[str, list[tuple[Part, dict]]] = {}
    for part in parts:
        candidates = {row["method"]: row["candidate"] for row in part.content["methods"]}
        for score in part.content["scores"]:
            key = canonical_json([score["dataset"], candidates[score["method"]], score["trials"]])
            found.setdefault(key, []).append((part, score))
    notes = []
    for alike in (one for one in found.values() if len(one) > 1):
        methods = list(dict.fromkeys(_labelled(part, score["method"]) for part, score in alike))
        files, dataset = " and ".join(str(part.path) for part, _ in alike), alike[0][1]["dataset"]
        if len(methods) > 1:
            same = f"{' and '.join(methods)} are the same trials on {dataset}, in {files}"
            told = f"{same}: one result has several ranks."
        else:
            told = f"{methods[0]} has the same trials on {dataset} in {files}: they count once."
        notes.append(told)
    return notes


def _notes(names: list[str], methods: list[str], whole: np.ndarray, friedman: dict | None) -> list[str]:
    notes = []
    if not whole.all():
        notes.append(f"{(~whole).sum()} of {len(methods)} methods lack a score on some data set and have no mean rank.")
    if friedman is None:
        here = f"here {len(names)} and {whole.sum()}"
        notes.append(f"Friedman's test needs {LEAST} data sets and {LEAST} methods that have them all, {here}.")
        return notes
    found = "differ" if friedman["p"] < ALPHA else "can't be told apart"
    notes.append(
        f"Over {len(names)} data sets the methods {found} (Friedman, p {friedman['p']:.3g}); by Nemenyi's test two of "
        f"them differ where their mean ranks lie more than {friedman['critical_difference']:.2f} apart."
    )
    return notes
