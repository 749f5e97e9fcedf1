"""Does each method beat the plain baseline that it claims to beat, in the setting that it was made for?

python benchmarks/methods.py people methods          who trains, validates and is tested, beside methods/cohorts.csv
python benchmarks/methods.py run results/methods     each sweep of assets/sweeps/methods, then its null twin
python benchmarks/methods.py table results/methods   differences to the baselines, as Markdown
python benchmarks/methods.py called results/methods methods/cohorts.csv   who is called a patient, by site

methods/ is made by `tlimb demo-cohort methods --scans 1500 --seed 2`.
"""

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import numpy as np
import pandas as pd
from method_studies import STUDIES, Study

from tlimb.config import read_sweep
from tlimb.files import read_json, write_csv, write_json
from tlimb.ranking.compare import Measure, mean_with_interval, paired_difference
from tlimb.ranking.results import key_of
from tlimb.search.space import candidate_of, expand, grid
from tlimb.seeds import seed_for

SWEEPS = Path("assets/sweeps/methods")
FEW, DRAWS = 40, 3
CONFOUNDED = 0.9
RARE = 6


@click.group(help=__doc__)
def main():
    """Commands."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def people(folder: Path):
    """Write the split files of the study beside FOLDER/cohorts.csv."""
    sheet = pd.read_csv(folder / "cohorts.csv")
    clinic, lifespan = (sheet[sheet["cohort"] == name].reset_index(drop=True) for name in ("clinic", "lifespan"))
    write_csv(folder / "permuted.csv", permuted(lifespan))
    for name, made in {
        "few": few(clinic),
        "half": half(clinic),
        "all": _listed(clinic, ["diagnosis"], {"test": 120, "validation": 40, "train": 140}),
        "sites": sites(clinic, both=False),
        "sites-oracle": sites(clinic, both=True),
        "confounded": confounded(clinic, CONFOUNDED),
        "confounded-oracle": confounded(clinic, 0.5),
        "imbalance": imbalance(clinic, RARE),
        "imbalance-oracle": imbalance(clinic, 2),
        "ages": _listed(lifespan, ["cohort"], {"test": 240, "validation": 80, "train": 160}),
        "ages-all": _listed(lifespan, ["cohort"], {"test": 240, "validation": 80, "train": 580}),
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


def imbalance(clinic: pd.DataFrame, one_in: int) -> pd.DataFrame:
    """240 tested, half of them patients; of 48 validated on and 120 who train one in so many is a patient."""
    parts = []
    for diagnosis, rows in clinic.groupby("diagnosis"):
        patients = {role: size // one_in for role, size in {"validation": 48, "train": 120}.items()}
        controls = {"validation": 48 - patients["validation"], "train": 120 - patients["train"]}
        sizes = {"test": 120} | (patients if diagnosis == "patient" else controls)
        parts.append(_listed(rows, ["diagnosis"], sizes))
    return pd.concat(parts, ignore_index=True)


def permuted(lifespan: pd.DataFrame) -> pd.DataFrame:
    """`age_null`: to each the age of somebody else, or by chance his own."""
    ages = lifespan.set_index("subject")["age"]
    given = ages.loc[_shuffled(ages.index, "permuted")].to_numpy()
    return pd.DataFrame({"cohort": "lifespan", "subject": ages.index, "age_null": given})


def _listed(rows: pd.DataFrame, strata: list[str], sizes: dict[str, int]) -> pd.DataFrame:
    """Subject, role and cohort, so many of each stratum in each role."""
    parts = [
        pd.DataFrame({"subject": who, "role": role})
        for _, stratum in rows.groupby(strata)
        for role, who in _parts(stratum, sizes).items()
    ]
    table = pd.concat(parts, ignore_index=True).assign(cohort=rows["cohort"].iloc[0])
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


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
@click.option("--only", multiple=True, help="Names of studies; all where there is none.")
@click.option("--null/--no-null", default=True, help="Also the twins on labels that mean nothing.")
def run(out: Path, more: tuple[str, ...], only: tuple[str, ...], null: bool):
    """Run the sweeps of one study after the other, then their twins, with all that Nextflow and the kept states save.

    MORE is what else Nextflow is told, such as `-- -profile slurm`.
    """
    wanted = {name: study for name, study in STUDIES.items() if not only or name in only}
    sweeps = [sweep for name, study in wanted.items() for sweep in (name, *_elsewhere(study), _sweep_of(study.oracle))]
    for sweep in dict.fromkeys(sweeps):
        _nextflow(SWEEPS / f"{sweep}.json", out / sweep, out, more)
    for name, study in wanted.items() if null else ():
        twins = {name: null_twin(name, out)}
        twins |= {sweep: _renamed(read_json(SWEEPS / f"{sweep}.json"), study.target) for sweep in _elsewhere(study)}
        for sweep, document in twins.items():
            twin = out / f"{sweep}-null.json"
            write_json(twin, document)
            _nextflow(twin, out / f"{sweep}-null", out, more)


def _elsewhere(study: Study) -> list[str]:
    """Sweeps that have a baseline of the study beside its own."""
    return [_sweep_of(of) for several in study.baselines.values() for of in several if ": " in of]


def _sweep_of(name: str) -> str:
    return name.partition(": ")[0]


def _nextflow(sweep: Path, outdir: Path, out: Path, more: tuple[str, ...]) -> None:
    places = ["--outdir", outdir, "--state_dir", (out / "state").absolute(), "--trials_per_task", "24"]
    subprocess.run(["nextflow", "run", ".", "-params-file", sweep, *places, "-resume", *more], check=True)


def null_twin(name: str, out: Path) -> dict:
    """The sweep with its baselines and the method that was best on validation alone, for a label that says nothing."""
    document, study = read_json(SWEEPS / f"{name}.json"), STUDIES[name]
    ((key, variants),) = document["search"]["space"].items()
    found = candidates_of(out / name, name)
    baselines = {of for several in study.baselines.values() for of in several if of in found}
    others = [method for method in study.methods if method in found and method not in baselines]
    best = _best_first(others, found, study)[0]
    kept = [variant for method, variant in zip(study.methods, variants) if method in {*baselines, best}]
    document["search"]["space"] = {key: kept}
    return _renamed(document, study.target)


def _best_first(methods: Iterable[str], found: dict[str, "Candidate"], study: Study) -> list[str]:
    """Methods, best on validation first."""
    sign = 1 if study.target == "age" else -1
    return sorted(methods, key=lambda method: sign * found[method].validation)


def _renamed(document, target: str):
    """The document with `diagnosis_null`, or whatever the target, wherever it says `diagnosis`."""
    if isinstance(document, dict):
        return {_renamed(key, target): _renamed(value, target) for key, value in document.items()}
    if isinstance(document, list):
        return [_renamed(item, target) for item in document]
    word = rf"(?<![a-z]){target}(?![a-z])"
    return re.sub(word, f"{target}_null", document) if isinstance(document, str) else document


def _names(name: str, document: dict) -> dict[str, str]:
    """Candidate -> the name that the study gives it. document: the sweep as it is, or renamed as its twin."""
    ((key, variants),) = document["search"]["space"].items()
    return {
        _candidate(document, key, variant): method
        for method, variant in zip(STUDIES[name].methods, variants, strict=True)
    }


def _candidate(document: dict, key: str, variant) -> str:
    """The id of the candidate that a variant alone makes."""
    alone = document | {"search": document["search"] | {"space": {key: [variant]}}}
    return candidate_of(expand(grid(read_sweep(alone))[0])[0])


@dataclass(frozen=True)
class Candidate:
    """A candidate of a finished run: seed and fold -> predictions for the people tested, and how many trials failed."""

    id: str
    validation: float
    tables: dict[tuple, pd.DataFrame]
    failed: int


@cache
def candidates_of(folder: Path, study: str | None = None) -> dict[str, Candidate]:
    """The candidates of a finished run by the names that a study gives them, else by strategy or network."""
    ranking = read_json(folder / "ranking" / "ranking.json")
    names = {}
    if study is not None:
        document = read_json(SWEEPS / f"{study}.json")
        twin = folder.name.endswith("-null")
        names = _names(study, _renamed(document, STUDIES[study].target) if twin else document)
    strategies = [row["strategy"] for row in ranking["candidates"]]
    found = {}
    for row in ranking["candidates"]:
        usual = row["strategy"] if strategies.count(row["strategy"]) == 1 else row["name"]
        validation = np.nan if row["validation_mean"] is None else row["validation_mean"]
        done = [trial for trial in row["trials"] if trial["status"] == "ok"]
        tables = {key_of(trial): _tested(folder, trial["id"], ranking["target"]) for trial in done}
        found[names.get(row["candidate"], usual)] = Candidate(row["candidate"], validation, tables, row["failed"])
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


def _markdown(study: Study, name: str, out: Path) -> str:
    """The table of one study: candidates, best on validation first, then the oracle, then the null twin."""
    heads = ["method", "validation", "test", "minus", *(f"{of}, difference" for of in study.metrics.values())]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    own = candidates_of(out / name, name)
    for method in _best_first(own, own, study):
        rows += _rows(study, method, own[method], _baselines(study, method, own, out))
    sweep, oracle = study.oracle.split(": ")
    if (out / sweep / "ranking" / "ranking.json").exists():
        known = _named(candidates_of(out / sweep), oracle)
        rows += _rows(study, "*oracle*", known, _baselines(study, "", own, out))
    if (out / f"{name}-null" / "ranking" / "ranking.json").exists():
        null = candidates_of(out / f"{name}-null", name)
        for method, one in null.items():
            rows += _rows(study, f"null: {method}", one, _baselines(study, method, null, out, "-null"))
    return "\n".join(rows)


def _named(found: dict[str, Candidate], name: str) -> Candidate:
    """The candidate of a name, or the one whose name has it as a word."""
    (fitting,) = [one for known, one in found.items() if known == name or name in re.split(r"\W+", known)]
    return fitting


def _baselines(
    study: Study, method: str, own: dict[str, Candidate], out: Path, twin: str = ""
) -> dict[str, Candidate]:
    """What a method claims to beat, by name. twin: "-null" in a twin."""
    found = {}
    for wanted in study.baselines.get(method, study.baselines[""]):
        sweep, _, name = wanted.rpartition(": ")
        there = candidates_of(out / f"{sweep}{twin}") if sweep else own
        if name in there and wanted != method:
            found[sweep or name] = there[name]
    return found


def _rows(study: Study, method: str, one: Candidate, baselines: dict[str, Candidate]) -> list[str]:
    """A row of the table for each baseline, one where there is none."""
    main = next(iter(study.metrics))
    score = mean_with_interval(list(one.tables.values()), _measure(main, study))
    failed = f" ({one.failed} of {one.failed + len(one.tables)} trials failed)" if one.failed else ""
    first = [method + failed, f"{one.validation:.3f}", _interval(score, "mean", ".3f")]
    rows = []
    for name, base in baselines.items() or [("", None)]:
        pairs = {} if base is None else _pairs(one, base)
        found = [paired_difference([*pairs.values()], _measure(metric, study), [*pairs]) for metric in study.metrics]
        cells = [*(first if not rows else [""] * 3), name, *(_interval(one, "difference", "+.3f") for one in found)]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _pairs(one: Candidate, base: Candidate) -> dict[tuple, tuple[pd.DataFrame, pd.DataFrame]]:
    """Trials of the baseline -> predictions of both with the same seed and draw, or seed where only that has draws."""
    if {key[1:] for key in base.tables} <= {key[1:] for key in one.tables}:
        shared = sorted(one.tables.keys() & base.tables.keys(), key=str)
        return {key: (one.tables[key], base.tables[key]) for key in shared}
    by_seed = {key[0]: table for key, table in one.tables.items()}
    return {key: (by_seed[key[0]], table) for key, table in base.tables.items() if key[0] in by_seed}


def _measure(metric: str, study: Study) -> Measure:
    return Measure(metric, study.kind, resamples=2000, confidence=0.95, seed=0)


def _interval(found: dict | None, name: str, form: str) -> str:
    """A value with its interval; bold where a difference's interval leaves 0 out."""
    if found is None or found[name] is None:
        return ""
    text = f"{found[name]:{form}} ({found['low']:{form}} to {found['high']:{form}})"
    return f"**{text}**" if name == "difference" and found["low"] * found["high"] > 0 else text


@main.command()
@click.argument("out", type=click.Path(path_type=Path, exists=True))
@click.argument("cohorts", type=click.Path(path_type=Path, exists=True))
def called(out: Path, cohorts: Path):
    """Print which share of the people tested at each site is called patient; half of them are."""
    site = pd.read_csv(cohorts).set_index("subject")["site"].rename(lambda subject: subject.removeprefix("sub-"))
    for name in ("confounded", "adaptation"):
        folders = {name: name, _sweep_of(STUDIES[name].oracle): None}
        for folder, study in folders.items():
            for method, one in candidates_of(out / folder, study).items():
                click.echo(f"{folder}: {method}: {_called(one, site)}")


def _called(one: Candidate, site: pd.Series) -> str:
    """Mean over trials of the share called patient at each site."""
    tables = pd.concat([table.assign(trial=trial) for trial, table in enumerate(one.tables.values())])
    where = tables["person"].str.rpartition("/")[2].str.removeprefix("sub-").map(site)
    shares = (tables["prediction_label"] == "patient").groupby([tables["trial"], where.rename("site")]).mean()
    return ", ".join(f"{name} {share:.2f}" for name, share in shares.groupby("site").mean().items())


if __name__ == "__main__":
    main()
