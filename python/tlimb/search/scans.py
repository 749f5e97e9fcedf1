"""Which scans a stage can use: of its cohorts and modalities, preprocessed, and with every label that it needs."""

import pandas as pd

from tlimb.config import Sweep
from tlimb.errors import Problem, nearest
from tlimb.labels import CLASSES, class_name, classes_of
from tlimb.modality import kind_of
from tlimb.search.preprocessed import Recipes
from tlimb.search.represented import lacking_parts, single_class

CARRIED = ["scan_id", "chunk"]
NAMED = 5  # examples given of many


SECOND = ("unlabelled", "target")
"""Roles of scans that train beside labelled ones and whose targets are hidden."""

TRAINING = ("train", *SECOND)
"""Roles of scans that training learns from; people of all others are held out."""


def labels_of(stage: dict) -> list[str]:
    """The labels that a stage's training must know: its targets, and the one by which its sampler draws."""
    sampler = stage["data"]["sampler"]
    drawn_by = sampler["init_args"].get("label") if sampler else None
    return list(dict.fromkeys([*stage["targets"], *([drawn_by] if isinstance(drawn_by, str) else [])]))


def terms_of(objective: dict) -> list[tuple[str, dict]]:
    """(JSON path within the objective, class) of every term that an objective names, its primary losses among them."""
    primary = objective["primary"]
    if primary is None:
        named = []
    elif "class_path" in primary:
        named = [("primary", primary)]
    else:
        named = [(f"primary.{name}", spec) for name, spec in primary.items()]
    return named + [(f"auxiliary[{j}]", term) for j, term in enumerate(objective["auxiliary"])]


def term_columns(stage: dict) -> list[str]:
    """The label columns that terms look at beside the targets, each once; scans may lack them."""
    asked = [term["init_args"].get("column") for _, term in terms_of(stage["objective"])]
    return list(dict.fromkeys(name for name in asked if isinstance(name, str)))


def columns_of(stage: dict, labels: dict) -> list[str]:
    """The columns of the cohort's table that `labels_of` a stage are made of: events, too, of times until them."""
    return with_events([*labels_of(stage), *term_columns(stage)], labels)


def with_events(names: list[str], labels: dict) -> list[str]:
    """Label columns with those of the events of times among them, each once."""
    return list(dict.fromkeys([*names, *(labels[name]["event"] for name in names if "event" in labels[name])]))


def role_of(data: dict) -> str:
    """The key of a stage's `data` that names the scans that it is divided into parts of."""
    return next(role for role in ("labelled", "source", "unlabelled") if data[role])


def asked_of(data: dict) -> dict:
    """What a stage's `data` says of the scans that are divided: cohort, modality, where, n, missing."""
    return {"missing": "error"} | data[role_of(data)]


def roles_of(data: dict) -> list[tuple[str, dict]]:
    """(role, what it asks for) of every set of scans that a stage's `data` names."""
    return [(role, data[role]) for role in ("labelled", "unlabelled", "source", "target") if data[role]]


def second_of(data: dict) -> tuple[str, dict] | None:
    """The role, unlabelled or target, and what `data` says of a second set of scans; None where there is one set."""
    role = {"labelled": "unlabelled", "source": "target"}.get(role_of(data))
    return (role, data[role] | {"missing": "mask"}) if role and data[role] else None


def with_cohort(labels: dict, table: pd.DataFrame) -> dict:
    """The labels, with the cohort as one more: samplers and terms may name it as they name any other."""
    return labels | {"cohort": {"kind": "classification", "classes": sorted(set(table["cohort"]))}}


class StageScans:
    """Selects rows of the cohort's table and gathers what is wrong with them in `problems`."""

    def __init__(self, sweep: Sweep, table: pd.DataFrame, labels: dict, recipes: Recipes, problems: list[Problem]):
        self.table, self.labels, self.recipes, self.problems = table.sort_values("scan_id"), labels, recipes, problems
        self._kinds = {name: recipe.kind for name, recipe in sweep.recipes.items()}
        self._kind = self.table["modality"].map(kind_of)

    def eligible(self, stage: dict, split: dict) -> pd.DataFrame:
        """The preprocessed scans of a stage with its targets, its sampler's label and, where one is held out, a site.

        Rows of the table with the column `chunk`; the label ``split["column"]`` becomes text.
        """
        role, asked = role_of(stage["data"]), asked_of(stage["data"])
        scans = self._preprocessed(self.chosen(stage, role, asked), stage)
        scans = self._with_targets(scans, stage, f"stages.{stage['name']}.targets")
        drawn_by = [name for name in labels_of(stage) if name not in stage["targets"]]
        scans = self._with_labels(scans, stage, f"stages.{stage['name']}.data.sampler.init_args.label", drawn_by)
        if split["scheme"] == "site":
            scans = self._with_labels(scans, stage, "split.column", [split["column"]])
            scans = scans.assign(**{split["column"]: as_text(scans[split["column"]])})
        return scans

    def second(self, stage: dict, split: dict) -> pd.DataFrame:
        """The preprocessed scans of a stage's second set, whatever their labels, but for those of a site that is held
        out; rows of the table with `chunk`."""
        role, asked = second_of(stage["data"])
        scans = self._preprocessed(self.chosen(stage, role, asked), stage)
        if split["scheme"] == "site" and split["held_out"]:
            scans = scans[~as_text(scans[split["column"]]).isin(split["held_out"])]
        return scans

    def chosen(self, stage: dict, role: str, asked: dict) -> pd.DataFrame:
        """The rows that one role of a stage's `data` asks for by cohorts, modalities and classes of label columns."""
        rows = self.named(stage, asked["cohort"], asked["modality"])
        for column, classes in asked["where"].items():
            values = as_text(rows[column])
            rows = rows[values.isin(classes)]
            where = f"stages.{stage['name']}.data.{role}.where.{column}"
            for name in sorted(set(classes) - set(values)):
                message = f"no scan of cohort {', '.join(asked['cohort'])} is called '{name}'"
                self.problems.append(Problem(where, message, nearest(name, values.dropna().unique())))
        return rows

    def named(self, stage: dict, cohorts: list[str], modality: list[str] | None) -> pd.DataFrame:
        """The rows of some cohorts that a stage's recipe can take, of some modalities where these are given."""
        data = stage["data"]
        chosen = self.table["cohort"].isin(cohorts) & (self._kind == self._kinds[data["recipe"]])
        if modality is not None:
            chosen &= self.table["modality"].isin(modality)
        if not chosen.any():
            kind = {"series": "time series", "volume": "images"}[self._kinds[data["recipe"]]]
            message = f"cohort {', '.join(cohorts)} has no {kind}, which recipe '{data['recipe']}' takes"
            self.problems.append(Problem(f"stages.{stage['name']}.data", message))
        return self.table[chosen]

    def sites(self, stage: dict, split: dict) -> list[list[str]]:
        """The parts that a split holds out in turn: every value of its column, or those that it names as one part.

        Values are those of the cohort's table, so that a fold's number does not depend on what preprocessing could do.
        """
        where, column = "split.held_out", split["column"]
        rows = self.chosen(stage, role_of(stage["data"]), asked_of(stage["data"]))
        rows = rows.dropna(subset=[*stage["targets"], column])
        values = sorted(set(as_text(rows[column])))
        if split["held_out"] is None:
            if len(values) < 2:
                message = f"expected two values of '{column}' or more, found {', '.join(values) or 'none'}"
                self.problems.append(Problem("split.column", message))
            return [[value] for value in values]
        unknown = [name for name in split["held_out"] if name not in values]
        for name in unknown:
            self.problems.append(Problem(where, f"no {column} is called '{name}'", nearest(name, values)))
        if not set(values) - set(split["held_out"]):
            self.problems.append(Problem(where, f"holds every {column} out; nobody is left to train on"))
        return [] if unknown else [split["held_out"]]

    def external(self, stage: dict, cohort: str, rows: pd.DataFrame) -> pd.DataFrame:
        """An external cohort's scans; its people must not take part in the split, whose rows are given."""
        named = self.named(stage, [cohort], asked_of(stage["data"])["modality"])
        scans = self._with_targets(named, stage, f"evaluate.external ({cohort})")
        scans = self._preprocessed(scans, stage)
        self._check_external(stage, cohort, scans, rows)
        return scans.assign(role=f"external:{cohort}", times=1)

    def _check_external(self, stage: dict, cohort: str, scans: pd.DataFrame, rows: pd.DataFrame) -> None:
        found, shared = [], sorted(set(scans["person"]) & set(rows["person"]))
        if shared:
            found.append(f"cohort {cohort} shares {len(shared)} persons with the split, such as {shared[0]}")
        if scans.empty:
            found.append(f"cohort {cohort} has no scan with {', '.join(stage['targets'])}")
        for label in stage["targets"]:
            kind = self.labels[label]["kind"]
            strange = classes_of(scans[label], kind) - classes_of(rows[label], kind)
            if kind in CLASSES and strange:
                names = ", ".join(sorted(strange))
                found.append(f"cohort {cohort} has classes of '{label}' that are not trained on: {names}")
        self.problems += [Problem("evaluate.external", message) for message in found]

    def check_classes(self, rows: pd.DataFrame, stage: dict, split: dict) -> bool:
        """Whether every class of a stage's targets has somebody in every part of a split, and every event was seen.

        Of several classes at once, somebody must be without each as well.
        """
        before, where = len(self.problems), f"stages.{stage['name']}"
        if split["held_out"]:
            where += f" (test on {', '.join(split['held_out'])})"
        hints = {
            "site": "name several to hold out together in split.held_out, or leave this one's scans out",
            "file": "move persons in the split file",
        }
        for label in stage["targets"]:
            known = rows[rows[label].notna() & ~rows["role"].isin(SECOND)]
            empty = sorted(set(rows["role"]) - set(SECOND) - set(known["role"]))
            if empty:
                self.problems.append(Problem(f"{where}.targets", f"nobody with '{label}' is left for {empty[0]}"))
                continue
            single = single_class(known, label, self.labels[label])
            if single:
                self.problems.append(Problem(f"{where}.targets", f"'{label}' has one class only: {single}"))
                continue
            stratum = self.labels[label].get("event", label)
            hint = hints.get(split["scheme"], f"stratify by {stratum}, or make the parts of the split larger")
            lacking = lacking_parts(known, label, self.labels[label])
            self.problems += [Problem(where, f"too few people: {message}", hint) for message in lacking]
        return len(self.problems) == before

    def check_domain(self, stage: dict, rows: pd.DataFrame, more: pd.DataFrame) -> bool:
        """Whether the measured scans of a second set have every class that the first one has, and no other."""
        before, measured = len(self.problems), more[~more["role"].isin(SECOND)]
        for label in stage["targets"]:
            kind = self.labels[label]["kind"]
            strange = classes_of(measured[label], kind) - classes_of(rows[label], kind) if kind in CLASSES else set()
            if strange:
                message = f"has classes of '{label}' that are not trained on: {', '.join(sorted(strange))}"
                self.problems.append(Problem(f"stages.{stage['name']}.data.{second_of(stage['data'])[0]}", message))
            known = pd.concat([rows[~rows["role"].isin(SECOND)], measured]).dropna(subset=label)
            hint = "make the parts larger, take another split.seed, or give their people in a split file"
            parts = set(measured["role"])
            for message in lacking_parts(known, label, self.labels[label]) if parts and not strange else ():
                self.problems.append(Problem(f"stages.{stage['name']}", f"too few people: {message}", hint))
        return len(self.problems) == before

    def check_columns(self, rows: pd.DataFrame, stage: dict) -> bool:
        """Whether the label columns that a stage's terms look at have two values or more among those who train.

        rows: of a split, scan_id and role.
        """
        before, known = len(self.problems), self.table.set_index("scan_id")
        for path, term in terms_of(stage["objective"]):
            name = term["init_args"].get("column")
            shown = ["train"] if name in stage["targets"] else TRAINING
            values = known.loc[rows.loc[rows["role"].isin(shown), "scan_id"], name] if isinstance(name, str) else None
            if values is not None and values.nunique() < 2:
                found = ", ".join(map(str, values.dropna().unique())) or "no value"
                where = f"stages.{stage['name']}.objective.{path}.init_args.column"
                message = f"the scans that train have {found} of '{name}'; expected two values or more"
                self.problems.append(Problem(where, message))
        return len(self.problems) == before

    def check_straddling(self, scans: pd.DataFrame, split: dict) -> None:
        """That nobody was scanned both inside and outside of the sites that are held out."""
        inside = scans[split["column"]].isin(split["held_out"]).groupby(scans["person"]).mean()
        names = sorted(inside.index[(inside > 0) & (inside < 1)])
        if names:
            message = f"{_some(names)} stand on both sides when {', '.join(split['held_out'])} is held out"
            hint = "give one value a person, or hold these out together with split.held_out"
            self.problems.append(Problem("split.column", message, hint))

    def _preprocessed(self, scans: pd.DataFrame, stage: dict) -> pd.DataFrame:
        index = self.recipes.index[stage["data"]["recipe"]]
        return scans.merge(index.loc[index["status"] == "ok", CARRIED], on="scan_id")

    def _with_targets(self, scans: pd.DataFrame, stage: dict, where: str) -> pd.DataFrame:
        """The scans that have every target, or some where the others are masked."""
        if stage["targets"] and asked_of(stage["data"])["missing"] == "mask":
            return scans.dropna(subset=stage["targets"], how="all")
        return self._with_labels(scans, stage, where, stage["targets"])

    def _with_labels(self, scans: pd.DataFrame, stage: dict, where: str, labels: list[str]) -> pd.DataFrame:
        for label in labels:
            missing = scans[label].isna()
            if asked_of(stage["data"])["missing"] != "drop" and missing.any():
                names = _some(scans.loc[missing, "scan_id"].tolist())
                message = f"column '{label}' is empty for {missing.sum()} of {len(scans)} scans: {names}"
                self.problems.append(Problem(where, message, 'fill it, or set `missing` to "drop"'))
            scans = scans[~missing]
        return scans


def as_text(column: pd.Series) -> pd.Series:
    """Classes as they are written: 1.0 as "1"; missing ones stay missing."""
    numeric = pd.api.types.is_numeric_dtype(column)
    return column.map(class_name, na_action="ignore").astype("str") if numeric else column


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
