"""The next trials of a sweep with their splits and pretrainings: a pure function of sweep, cohort and store index."""

from dataclasses import dataclass, field

import pandas as pd

from tlimb import splits
from tlimb.config import Sweep
from tlimb.errors import InputError, Problem, nearest
from tlimb.evaluation.metrics import METRICS
from tlimb.files import digest
from tlimb.search.space import candidate_of, grid


@dataclass(frozen=True)
class Recipes:
    """What preprocessing left: for each recipe the fingerprint and the index of its scans (scan_id, status, digest, chunk)."""

    fingerprint: dict[str, str]
    index: dict[str, pd.DataFrame]


@dataclass
class Proposal:
    """A round: trials, distinct pretrainings, and the rows of every split (split, scan_id, person, role, chunk)."""

    trials: list[dict] = field(default_factory=list)
    pretrainings: list[dict] = field(default_factory=list)
    splits: pd.DataFrame = field(default_factory=pd.DataFrame)


def suggest(sweep: Sweep, table: pd.DataFrame, labels: dict, recipes: Recipes, round_number: int = 1, trusted=()) -> Proposal:
    """Every trial of the grid with the split it is measured on and the encoder it starts from.

    table: as cohort.parquet; labels: as in cohort.json. Raises InputError with every problem that the data make of
    the sweep: an unknown cohort or label, a missing one, one class only, too few people.
    """
    planner = _Planner(sweep, table, labels, recipes)
    planner.check_names()
    planner.check_contents()
    try:
        specs = grid(sweep, trusted)
    except InputError as error:
        raise InputError(planner.problems + error.problems) from None
    proposal, pretrainings = Proposal(), {}
    for spec in specs:
        planner.check_monitors(spec)
        target = planner.target_split(spec)
        chain = planner.chain(spec, target) if target is not None else None
        if chain is None:
            continue
        pretrainings |= {line["id"]: line for line in chain}
        proposal.trials.append({
            "id": digest(spec),
            "candidate": candidate_of(spec),
            "round": round_number,
            "split": target.id,
            "init": chain[-1]["id"] if chain else "",
            "budget": spec["stages"][-1]["epochs"],
            "spec": spec,
        })
    if planner.problems:
        raise InputError(list(dict.fromkeys(planner.problems)))
    proposal.pretrainings = list(pretrainings.values())
    proposal.splits = planner.rows()
    splits.require_disjoint(proposal.splits)
    return proposal


def all_fine(table: pd.DataFrame, names) -> Recipes:
    """The index as it will be if every scan passes preprocessing: for checks and plans before anything has run."""
    index = pd.DataFrame({"scan_id": table["scan_id"], "status": "ok", "digest": "", "chunk": ""})
    return Recipes({name: "" for name in names}, {name: index for name in names})


@dataclass(frozen=True)
class _Split:
    id: str
    rows: pd.DataFrame


class _Planner:
    """Resolves stages to scans, once for each distinct choice, and gathers the problems met on the way."""

    def __init__(self, sweep: Sweep, table: pd.DataFrame, labels: dict, recipes: Recipes):
        self.sweep, self.table, self.labels, self.recipes = sweep, table, labels, recipes
        self.problems: list[Problem] = []
        self._made: dict[str, _Split | None] = {}

    def rows(self) -> pd.DataFrame:
        made = {split.id: split.rows.assign(split=split.id) for split in self._made.values() if split is not None}
        return pd.concat([made[key] for key in sorted(made)], ignore_index=True)

    def check_names(self) -> None:
        """Cohorts, labels and metrics that the sweep names and nothing bears."""
        cohorts = set(self.table["cohort"])
        for stage in self.sweep.stages:
            self._check_stage(f"stages.{stage.name}", stage.targets, stage.data.labelled.cohort)
            for label in stage.split.stratify if stage.split else []:
                self._check(f"stages.{stage.name}.split.stratify", "label column", label, self.labels)
        named = [external.cohort for external in self.sweep.evaluate.external]
        for i, name in enumerate(named):
            self._check(f"evaluate.external[{i}].cohort", "cohort", name, cohorts)
            if name in named[:i]:
                self.problems.append(Problem(f"evaluate.external[{i}].cohort", f"cohort {name} is named twice"))
        for label in self.sweep.labels:
            self._check(f"labels.{label}", "label column", label, self.labels)
        for label in self.sweep.split.stratify:
            self._check("split.stratify", "label column", label, self.labels)
        target = self.sweep.stages[-1].targets[0]
        if self.sweep.search.metric and target in self.labels:
            self._check("search.metric", "metric", self.sweep.search.metric, METRICS[self.labels[target]["kind"]])

    def check_contents(self) -> None:
        """That no image stands for two persons under two file names."""
        for name, index in self.recipes.index.items():
            known = index[index["digest"] != ""].merge(self.table[["scan_id", "person"]], on="scan_id")
            for _, same in known.groupby("digest"):
                if same["person"].nunique() > 1:
                    message = f"the same image stands for {' and '.join(sorted(set(same['person'])))}"
                    self.problems.append(Problem(f"recipe {name}", message, "if it is one person, say so in the column 'person'"))

    def _check_stage(self, where: str, targets: list[str], cohorts: list[str]) -> bool:
        known = [self._check(f"{where}.targets", "label column", name, self.labels) for name in targets]
        names = set(self.table["cohort"])
        known += [self._check(f"{where}.data.labelled.cohort", "cohort", name, names) for name in cohorts]
        return all(known)

    def check_monitors(self, spec: dict) -> None:
        """That every stage of a trial monitors something that it measures."""
        for stage in spec["stages"]:
            several = len(stage["targets"]) > 1
            valid = ["validation_loss"]
            for name in stage["targets"]:
                if name in self.labels:
                    prefix = f"validation_{name}_" if several else "validation_"
                    valid += [prefix + metric for metric in METRICS[self.labels[name]["kind"]]]
            self._check(f"stages.{stage['name']}.monitor", "monitored value", stage["monitor"], valid)

    def _check(self, where: str, kind: str, name: str, valid) -> bool:
        if name not in valid:
            self.problems.append(Problem(where, f"no {kind} is called '{name}'", nearest(name, valid)))
        return name in valid

    def target_split(self, spec: dict) -> _Split | None:
        """The split of the last stage, with the external cohorts."""
        stage = spec["stages"][-1]
        key = digest([stage["data"]["labelled"], stage["data"]["recipe"], stage["targets"], spec["split"]])
        if key not in self._made:
            self._made[key] = self._divide(stage, spec["split"], barred=set(), external=self.sweep.evaluate.external)
        return self._made[key]

    def chain(self, spec: dict, target: _Split) -> list[dict] | None:
        """The pretrainings a trial starts from, first to last; empty for a trial from scratch."""
        lines, parent = [], ""
        for level, stage in enumerate(spec["stages"][:-1], start=1):
            held_out = target.rows if stage["disjoint"] else target.rows[target.rows["role"] != "train"]
            barred = set(held_out["person"])
            key = digest([stage["data"]["labelled"], stage["data"]["recipe"], stage["targets"], stage["split"], sorted(barred)])
            if key not in self._made:
                self._made[key] = self._divide(stage, stage["split"], barred)
            split = self._made[key]
            if split is None:
                return None
            own = {"architecture": spec["architecture"], "stage": stage, "seed": spec["seed"]}
            identity = self._pretraining_id(own, split, parent)
            lines.append({
                "id": identity, "parent": parent, "level": level, "split": split.id,
                "stage": stage["name"], "seed": spec["seed"], "spec": own,
            })
            parent = identity
        return lines

    def _pretraining_id(self, spec: dict, split: _Split, parent: str) -> str:
        """Equal exactly when everything that changes the encoder's numbers is equal."""
        stage = {key: value for key, value in spec["stage"].items() if key not in ("disjoint", "split")}
        stage["data"] = {key: value for key, value in stage["data"].items() if key != "labelled"}
        recipe = spec["stage"]["data"]["recipe"]
        digests = self.recipes.index[recipe].set_index("scan_id")["digest"]
        known = self.table.set_index("scan_id")[spec["stage"]["targets"]].astype("str")
        scans = [
            [scan, role, digests[scan], *known.loc[scan]] for scan, role in zip(split.rows["scan_id"], split.rows["role"])
        ]
        return digest([stage, spec["architecture"], spec["seed"], scans, self.recipes.fingerprint[recipe], parent])

    def _divide(self, stage: dict, split: dict, barred: set, external=()) -> _Split | None:
        where = f"stages.{stage['name']}"
        known = [self._check(f"{where}: split.stratify", "label column", name, self.labels) for name in split["stratify"]]
        scans = self._eligible(stage, barred)
        if scans is None or not all(known):
            return None
        people = scans.drop_duplicates("person").set_index("person")
        try:
            people = people.loc[splits.draw(list(people.index), stage["data"]["labelled"]["n"] or len(people), split["seed"])]
            roles = splits.holdout(people, split, {name: self.labels[name]["kind"] for name in split["stratify"]})
        except ValueError as error:
            self.problems.append(Problem(f"{where} (cohort {', '.join(stage['data']['labelled']['cohort'])})", str(error)))
            return None
        scans = scans[scans["person"].isin(roles.index)]
        rows = scans.assign(role=scans["person"].map(roles))
        if not self._classes_present(rows, stage, where):
            return None
        rows = pd.concat([rows, *(self._external(stage, item.cohort, rows) for item in external)])
        rows = rows.sort_values("scan_id")[["scan_id", "person", "role", "chunk"]].reset_index(drop=True)
        return _Split(digest(rows[["scan_id", "role"]].to_numpy().tolist()), rows)

    def _eligible(self, stage: dict, barred: set) -> pd.DataFrame | None:
        """The scans of a stage's cohorts that are preprocessed, labelled and not barred; None where a name is unknown."""
        where, labelled = f"stages.{stage['name']}", stage["data"]["labelled"]
        if not self._check_stage(where, stage["targets"], labelled["cohort"]):
            return None
        index = self.recipes.index[stage["data"]["recipe"]]
        index = index.loc[index["status"] == "ok", ["scan_id", "digest", "chunk"]]
        scans = self.table[self.table["cohort"].isin(labelled["cohort"])].merge(index, on="scan_id")
        return self._with_labels(scans, stage, where)[lambda frame: ~frame["person"].isin(barred)]

    def _with_labels(self, scans: pd.DataFrame, stage: dict, where: str) -> pd.DataFrame:
        for label in stage["targets"]:
            missing = scans[label].isna()
            if stage["data"]["labelled"]["missing"] == "error" and missing.any():
                names = scans.loc[missing, "scan_id"].tolist()
                shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                message = f"column '{label}' is empty for {len(names)} of {len(scans)} scans: {shown}"
                self.problems.append(Problem(f"{where}.targets", message, "fill it, or set data.labelled.missing to \"drop\""))
            scans = scans[~missing]
        return scans

    def _classes_present(self, rows: pd.DataFrame, stage: dict, where: str) -> bool:
        before = len(self.problems)
        for label in stage["targets"]:
            if self.labels[label]["kind"] != "classification":
                continue
            classes = set(rows[label])
            if len(classes) < 2:
                self.problems.append(Problem(f"{where}.targets", f"'{label}' has one class only: {', '.join(map(str, classes))}"))
                continue
            for role, part in rows.groupby("role"):
                absent = classes - set(part[label])
                if absent:
                    message = f"too few people: nobody of class {', '.join(sorted(map(str, absent)))} of '{label}' is left for {role}"
                    self.problems.append(Problem(where, message, f"stratify by {label}, or move the shares of the split"))
        return len(self.problems) == before

    def _external(self, stage: dict, cohort: str, rows: pd.DataFrame) -> pd.DataFrame:
        """An external cohort's rows; its people must not take part in the split itself."""
        scans = self._with_labels(self.table[self.table["cohort"] == cohort], stage, f"evaluate.external ({cohort})")
        index = self.recipes.index[stage["data"]["recipe"]]
        scans = scans.merge(index.loc[index["status"] == "ok", ["scan_id", "digest", "chunk"]], on="scan_id")
        shared = sorted(set(scans["person"]) & set(rows["person"]))
        if shared:
            message = f"cohort {cohort} shares {len(shared)} persons with the split, such as {shared[0]}"
            self.problems.append(Problem("evaluate.external", message))
        if scans.empty:
            self.problems.append(Problem("evaluate.external", f"cohort {cohort} has no scan with {', '.join(stage['targets'])}"))
        for label in stage["targets"]:
            strange = set(scans[label]) - set(rows[label])
            if self.labels[label]["kind"] == "classification" and strange:
                message = f"cohort {cohort} has classes of '{label}' that are not trained on: {', '.join(sorted(map(str, strange)))}"
                self.problems.append(Problem("evaluate.external", message))
        return scans.assign(role=f"external:{cohort}")
