"""report.html: one self-contained page that says what won, how surely, and how it came about."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import tlimb
from tlimb.ranking import quality
from tlimb.ranking.answer import WORDS
from tlimb.ranking.montages import pictures
from tlimb.ranking.names import pretraining_groups, trial_name
from tlimb.ranking.rank import Ranking
from tlimb.ranking.results import Results
from tlimb.ranking.sections import headline, people, sizes, training
from tlimb.ranking.sections.cost import cost
from tlimb.ranking.sections.live import packed_plotly
from tlimb.ranking.sections.looks import looks
from tlimb.ranking.sections.operating import operating_points
from tlimb.ranking.sections.search import progress, settings
from tlimb.ranking.selection import ranked_measure

SHOWN = {"candidates": 1000, "first": 40, "panels": 12, "pretrainings": 40, "pictures": 12, "listed": 15}
SHOWN |= {"failures": 40}
"""How many rows of each kind the page shows before it points to the files; `first` before a button shows the others."""

PACKAGES = (
    "torch, lightning, monai, SimpleITK, nibabel, nilearn, numpy, scipy, pandas, scikit-learn, pyarrow, pydantic"
).split(", ")


def render(
    results: Results,
    ranking: Ranking,
    *,
    template: Path,
    command: str,
    montages: Path | None = None,
    sites: dict[str, str] | None = None,
    effects: dict | None = None,
) -> str:
    """The page as HTML text, everything in it escaped.

    template: folder of the page's Jinja sources, report.html.j2 and what it includes.  command: the exact command of
    the run.  montages: folder of pictures of scans, as `tlimb.ranking.montages` reads it.  sites: scan_id -> site,
    where sites are known.  effects: what `settings` gave, where it was asked before: its forests take seconds for
    thousands of candidates.
    """
    loader = FileSystemLoader(template)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"num": number, "signed": signed, "duration": duration, "many": many, "brief": brief_text}
    environment.filters |= {"trial_name": trial_name, "p_value": p_value}
    page = {"ranking": ranking, "words": WORDS, "shown": SHOWN, "live": [], "packed_plotly": packed_plotly}
    page |= {"settings": effects or settings(results, ranking.candidates)} | _sections(results, ranking)
    page |= _data(results, ranking, montages, sites) | _origin(results, command)
    return environment.get_template("report.html.j2").render(page)


def _sections(results: Results, ranking: Ranking) -> dict:
    """What the templates draw of scores and trainings, a key a part; null where there is nothing to show."""
    measure, groups = ranked_measure(results)[1], pretraining_groups(results.pretrainings)
    word = WORDS[ranking.metric]
    return {
        "measure": measure,
        "word": word,
        "digits": headline.digits(ranking),
        "facts": headline.facts(ranking),
        "budgets": len({row.get("budget") for row in ranking.candidates}) > 1,
        "filters": headline.filters(ranking),
        "no_interval": headline.no_interval(results, ranking, measure),
        "dots": headline.dots(results, ranking),
        "comparisons": headline.comparisons(ranking),
        "friedman": headline.friedman(ranking),
        "second_classes": headline.second_classes(results),
        "every_metric": headline.every_metric(results, ranking, measure),
        "external": headline.external(results, ranking, measure),
        "groups": people.groups(ranking),
        "calibration": people.calibration(results, ranking),
        "operating": operating_points(results, ranking),
        **{key: people.named_sets(ranking, key) for key in ("conformal", "age_bias", "ensembles")},
        "learning": sizes.learning_curves(ranking, word),
        "transfer": sizes.transferability(ranking),
        "progress": progress(results, ranking, word),
        "cost": cost(ranking, word),
        "looks": looks(results, ranking),
        "model_curves": training.model_curves(results, ranking),
        "pretrainings": training.pretrainings(groups, results),
        "encoder_curves": training.encoder_curves(groups, results, SHOWN["panels"]),
        "n_encoder_groups": len(groups),
    }


def _data(results: Results, ranking: Ranking, montages: Path | None, sites: dict[str, str] | None) -> dict:
    """What the templates show of scans, cohorts and splits."""
    return {
        "splits": _splits(results, ranking),
        "cohort": results.cohort,
        "quality": quality.summary(results.scans),
        "quality_groups": quality.by_group(results.scans, sites),
        "look": _to_look_at(results, montages),
    }


def _origin(results: Results, command: str) -> dict:
    """What it takes to repeat the run."""
    sweep = json.dumps(results.sweep, indent=2, ensure_ascii=False)
    return {"stores": results.stores, "versions": versions(), "command": command.strip(), "sweep": sweep}


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign and a fixed number of decimals, a dash where there is none."""
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 2) -> str:
    """As `number`, with its sign always shown."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds as `41 s`, `3.5 min` or `2.1 h`."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def p_value(value: float | None) -> str:
    """A p value with two significant digits, `< 0.001` below that."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.{2 if value >= 0.095 else 3 if value >= 0.0095 else 4}f}"


def many(count: int) -> str:
    """A count of parameters as `11.2 million`, `1.03 thousand` or `850`."""
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return str(count)


def brief_text(value: float | None) -> str:
    """A number for sorting by, nothing where there is none."""
    return "" if value is None else f"{value:.6g}"


def versions() -> list[tuple[str, str]]:
    """(name, version) of tlimb, Python and the packages that do the work, without importing them."""
    found = [("tlimb", tlimb.__version__), ("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed"))
    return found


def _to_look_at(results: Results, montages: Path | None) -> dict:
    """Scans worth a look, worst first: how many, those shown with a picture, and those that are listed."""
    rows = quality.to_look_at(results.scans)
    shown = pictures(montages, [(row["recipe"], row["scan_id"]) for row in rows[: SHOWN["pictures"]]])
    for row in rows:
        row["picture"] = shown.get((row["recipe"], row["scan_id"]))
    pictured, rest = [row for row in rows if row["picture"]], [row for row in rows if not row["picture"]]
    return {"n": len(rows), "pictured": pictured, "listed": rest[: SHOWN["listed"]]}


def _splits(results: Results, ranking: Ranking) -> list[dict]:
    """Each split of the selected candidates with the persons of its roles, from the first finished trial on it."""
    lines = {trial["id"]: trial for trial in results.trials}
    rows: dict[str, dict] = {}
    for row in ranking.selected():
        for trial in row["trials"]:
            split = lines[trial["id"]]["split"]
            if trial["status"] == "ok" and split not in rows:
                persons = {name: _persons(results, trial["id"], name) for name in ("validation", "test")}
                train = results.models[trial["id"]].get("n", {}).get("train")
                part = trial_name(trial).split(", ")[1:]
                facts = {"split": split, "spec": row["spec"].get("split", {}), "part": part, "train": train}
                rows[split] = facts | persons
    return list(rows.values())


def _persons(results: Results, trial: str, name: str) -> int | None:
    return ((results.scores(trial, name) or {}).get("n") or {}).get("persons")
