"""Does each method beat the plain baseline that it claims to beat, in the setting that it was made for?

python benchmarks/methods.py people methods          who trains, validates and is tested, beside methods/cohorts.csv
python benchmarks/methods.py run results/methods     each sweep of assets/sweeps/methods, then its null twin
python benchmarks/methods.py table results/methods   differences to the baselines, as Markdown

methods/ is made by `tlimb demo-cohort methods --scans 1500 --seed 2`.
"""

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import numpy as np
import pandas as pd

from tlimb.config import read_sweep
from tlimb.files import read_json, write_csv, write_json
from tlimb.ranking.compare import Measure, mean_with_interval, paired_difference
from tlimb.ranking.results import key_of
from tlimb.search.space import candidate_of, expand, grid
from tlimb.seeds import seed_for

SWEEPS = Path("assets/sweeps/methods")
METRICS = ("balanced_accuracy", "auroc")
FEW, DRAWS = 40, 3
CONFOUNDED = 0.9


@dataclass(frozen=True)
class Study:
    """A setting and what is compared in it.

    baselines: what a candidate of the sweep claims to beat, by the candidate's own name, "" for all others; a name is
    that of the ranking, or <sweep>: <name> where another sweep has it. oracle: a candidate that knows what others do
    not.
    """

    setting: str
    baselines: dict[str, str]
    oracle: str | None = None


STUDIES = {
    "keeping": Study(
        "Keeping what was learned: pretrained on the age of 720 people, fine-tuned on 40",
        {"full": "scratch", "frozen": "scratch", "": "full"},
    ),
    "self-supervised": Study("Pretrained on 720 people without labels, fine-tuned on 40", {"": "scratch"}),
    "masked-vit": Study("The same with a vision transformer", {"": "scratch"}),
    "semi-supervised": Study("40 people with labels beside 240 without", {"": "full"}),
    "adaptation": Study(
        "Trained at one site, tested at another", {"": "full"}, oracle="adaptation-oracle: full"
    ),
    "confounded": Study(
        "The diagnosis goes with the site in 90 % of those who train and validate, and not in those tested",
        {"": "full"},
        oracle="confounded-oracle: full",
    ),
    "multitask": Study("Age and sex learned beside the diagnosis of 160", {"": "multitask-alone: scratch"}),
}


@click.group(help=__doc__)
def main():
    """Commands."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def people(folder: Path):
    """Write the split files of the study beside FOLDER/cohorts.csv."""
    sheet = pd.read_csv(folder / "cohorts.csv")
    clinic = sheet[sheet["cohort"] == "clinic"].reset_index(drop=True)
    for name, made in {
        "few": few(clinic),
        "half": half(clinic),
        "sites": sites(clinic, both=False),
        "sites-oracle": sites(clinic, both=True),
        "confounded": confounded(clinic, CONFOUNDED),
        "confounded-oracle": confounded(clinic, 0.5),
    }.items():
        write_csv(folder / f"{name}.csv", made)
        counts = made.groupby(["fold", "role"], sort=False).size() if "fold" in made else made.groupby("role").size()
        click.echo(f"{name}: {counts.to_dict()}")


def few(clinic: pd.DataFrame) -> pd.DataFrame:
    """240 tested, 80 validated on, and in each of three folds 40 others who train, as many patients as controls."""
    roles = {"test": 120, "validation": 40}
    parts = {name: _parts(rows, roles) for name, rows in clinic.groupby("diagnosis")}
    folds = []
    for draw in range(DRAWS):
        for name, part in parts.items():
            train = _shuffled(part["rest"], "few", draw)[: FEW // 2]
            for role, who in {"train": train, "validation": part["validation"], "test": part["test"]}.items():
                folds.append(pd.DataFrame({"subject": who, "role": role, "fold": draw}))
    return pd.concat(folds, ignore_index=True).assign(cohort="clinic")


def half(clinic: pd.DataFrame) -> pd.DataFrame:
    """240 tested, 80 validated on, and 160 who train."""
    return _listed(clinic, ["diagnosis"], {"test": 120, "validation": 40, "train": 80})


def sites(clinic: pd.DataFrame, both: bool) -> pd.DataFrame:
    """People of both sites with roles of their own; `both`: for one training on the labels of both sites."""
    east = _listed(clinic[clinic["site"] == "east"], ["diagnosis"], {"train": 90, "validation": 30, "test": 15})
    west = _listed(clinic[clinic["site"] == "west"], ["diagnosis"], {"train": 60, "validation": 15, "test": 65})
    return pd.concat([east[east["role"] == "train"] if both else east, west], ignore_index=True)


def confounded(clinic: pd.DataFrame, share: float) -> pd.DataFrame:
    """Of 120 who train and 60 who validate a share of the patients is of site east and of the controls of site west; of
    those tested half. The tested ones do not depend on the share."""
    parts = []
    for (site, diagnosis), rows in clinic.groupby(["site", "diagnosis"]):
        own = share if (site == "east") == (diagnosis == "patient") else 1 - share
        roles = {"test": 55, "train": round(60 * own), "validation": round(30 * own)}
        parts += [pd.DataFrame({"subject": who, "role": role}) for role, who in _parts(rows, roles).items()]
    table = pd.concat(parts, ignore_index=True).assign(cohort="clinic")
    return table[table["role"] != "rest"]


def _listed(rows: pd.DataFrame, strata: list[str], sizes: dict[str, int]) -> pd.DataFrame:
    """Subject, role and cohort, so many of each stratum in each role."""
    parts = [
        pd.DataFrame({"subject": who, "role": role})
        for _, stratum in rows.groupby(strata)
        for role, who in _parts(stratum, sizes).items()
    ]
    table = pd.concat(parts, ignore_index=True).assign(cohort="clinic")
    return table[table["role"] != "rest"]


def _parts(rows: pd.DataFrame, sizes: dict[str, int]) -> dict[str, list[str]]:
    """Role -> subjects, in an order that depends on the subject alone; who is left over under "rest"."""
    order = _shuffled(rows["subject"], "methods")
    if sum(sizes.values()) > len(order):
        raise click.ClickException(f"{sum(sizes.values())} people are needed and {len(order)} there")
    ends = np.cumsum(list(sizes.values()))
    return dict(zip([*sizes, "rest"], map(list, np.split(order, ends))))


def _shuffled(subjects, *names) -> list[str]:
    """Subjects in an order in which each has a place of its own, whoever else is there."""
    return sorted(subjects, key=lambda who: seed_for(0, *names, who))


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, help="Names of sweeps; all where there is none.")
@click.option("--null/--no-null", default=True, help="Also the twins on labels that mean nothing.")
def run(out: Path, only: tuple[str, ...], null: bool):
    """Run the sweeps one after the other, with all that Nextflow and the kept states save."""
    for path in sorted(SWEEPS.glob("*.json")):
        if not only or path.stem in only:
            _nextflow(path, out / path.stem, out)
    for name, study in STUDIES.items():
        if null and (not only or name in only):
            twins = {name: null_twin(name, out)}
            elsewhere = [of.partition(": ")[0] for of in study.baselines.values() if ": " in of]
            twins |= {sweep: _renamed(read_json(SWEEPS / f"{sweep}.json")) for sweep in elsewhere}
            for sweep, document in twins.items():
                twin = out / f"{sweep}-null.json"
                write_json(twin, document)
                _nextflow(twin, out / f"{sweep}-null", out)


def _nextflow(sweep: Path, outdir: Path, out: Path) -> None:
    places = ["--outdir", outdir, "--state_dir", (out / "state").absolute(), "--trials_per_task", "24"]
    subprocess.run(["nextflow", "run", ".", "-params-file", sweep, *places, "-resume"], check=True)


def null_twin(name: str, out: Path) -> dict:
    """The sweep with its baseline and the method that was best on validation alone, for a label that says nothing."""
    document = read_json(SWEEPS / f"{name}.json")
    (key, variants), *more = document["search"]["space"].items()
    if more:
        raise click.ClickException(f"{name}: one key of the space was expected, found more")
    made = {_candidate(document, key, variant): variant for variant in variants}
    found = candidates_of(out / name)
    base = [found[of].id for of in STUDIES[name].baselines.values() if of in found]
    best = max((one for one in found.values() if one.id not in base), key=lambda one: one.validation)
    document["search"]["space"] = {key: [made[one] for one in dict.fromkeys([*base, best.id])]}
    return _renamed(document)


def _candidate(document: dict, key: str, variant) -> str:
    """The id of the candidate that a variant alone makes."""
    alone = document | {"search": document["search"] | {"space": {key: [variant]}}}
    return candidate_of(expand(grid(read_sweep(alone))[0])[0])


def _renamed(document):
    """The document with `diagnosis_null` wherever it says `diagnosis`."""
    if isinstance(document, dict):
        return {_renamed(key): _renamed(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_renamed(item) for item in document]
    return document.replace("diagnosis", "diagnosis_null") if isinstance(document, str) else document


@dataclass(frozen=True)
class Candidate:
    """A candidate of a finished run: seed and fold -> predictions for the people tested, and how many trials failed."""

    id: str
    validation: float
    tables: dict[tuple, pd.DataFrame]
    failed: int


@cache
def candidates_of(folder: Path) -> dict[str, Candidate]:
    """The candidates of a finished run by name: the strategy where that is one's own, else what the report calls it."""
    ranking = read_json(folder / "ranking" / "ranking.json")
    rows = ranking["candidates"]
    strategies = [row["strategy"] for row in rows]
    found = {}
    for row in rows:
        name = row["strategy"] if strategies.count(row["strategy"]) == 1 else row["name"]
        validation = -np.inf if row["validation_mean"] is None else row["validation_mean"]
        done = [trial for trial in row["trials"] if trial["status"] == "ok"]
        tables = {key_of(trial): _tested(folder, trial["id"], ranking["target"]) for trial in done}
        found[name] = Candidate(row["candidate"], validation, tables, row["failed"])
    return found


def _tested(folder: Path, trial: str, target: str) -> pd.DataFrame:
    """What a trial predicted for the people tested."""
    rows = pd.read_parquet(folder / "scores" / trial / "predictions-test.parquet")
    return rows[(rows["target"] == target) & rows["truth"].notna()]


@main.command()
@click.argument("out", type=click.Path(path_type=Path, exists=True))
def table(out: Path):
    """Print the tables of the study."""
    for name, study in STUDIES.items():
        if (out / name / "ranking" / "ranking.json").exists():
            click.echo(f"### {study.setting}\n")
            click.echo(_markdown(study, name, out) + "\n")


HEAD = (
    "| method | validation | test | minus | balanced accuracy, difference | area under the curve, difference |\n"
    "|---|---|---|---|---|---|"
)


def _markdown(study: Study, name: str, out: Path) -> str:
    """The table of one study: candidates, best on validation first, then the oracle, then the null twin."""
    own = candidates_of(out / name)
    rows = [HEAD]
    for method in sorted(own, key=lambda one: -own[one].validation):
        rows.append(_row(method, own[method], *_baseline(study, method, own, out)))
    if study.oracle:
        sweep, oracle = study.oracle.split(": ")
        known = candidates_of(out / sweep)[oracle]
        rows.append(_row("*oracle*", known, *_baseline(study, "", own, out)))
    if (out / f"{name}-null" / "ranking" / "ranking.json").exists():
        null = candidates_of(out / f"{name}-null")
        for method, one in null.items():
            rows.append(_row(f"null: {method}", one, *_baseline(study, method, null, out, "-null")))
    return "\n".join(rows)


def _baseline(study: Study, method: str, own: dict[str, Candidate], out: Path, twin: str = "") -> tuple:
    """What a method claims to beat, by its name and results; None for what claims nothing. twin: "-null" in a twin."""
    wanted = study.baselines.get(method, study.baselines[""])
    sweep, _, elsewhere = wanted.rpartition(": ")
    found = candidates_of(out / f"{sweep}{twin}").get(elsewhere) if sweep else own.get(wanted)
    return (elsewhere, found) if method != wanted else ("", None)


def _row(method: str, one: Candidate, base_name: str, base: Candidate | None) -> str:
    score = mean_with_interval(list(one.tables.values()), _measure("balanced_accuracy"))
    differences = [""] * len(METRICS)
    if base is not None:
        pairs = [(one.tables[key], base.tables[key]) for key in sorted(one.tables.keys() & base.tables.keys())]
        found = [paired_difference(pairs, _measure(metric)) for metric in METRICS]
        differences = [_interval(one, "difference", "+.3f") for one in found]
    failed = f" ({one.failed} of {one.failed + len(one.tables)} trials failed)" if one.failed else ""
    cells = [method + failed, f"{one.validation:.3f}", _interval(score, "mean", ".3f"), base_name, *differences]
    return "| " + " | ".join(cells) + " |"


def _measure(metric: str) -> Measure:
    return Measure(metric, "classification", resamples=2000, confidence=0.95, seed=0)


def _interval(found: dict | None, name: str, form: str) -> str:
    """A value with its interval; bold where a difference's interval leaves 0 out."""
    if found is None or found[name] is None:
        return ""
    text = f"{found[name]:{form}} ({found['low']:{form}} to {found['high']:{form}})"
    return f"**{text}**" if name == "difference" and found["low"] * found["high"] > 0 else text


if __name__ == "__main__":
    main()
