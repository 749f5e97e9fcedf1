"""Stages resolved to scans: the splits of trials and pretrainings, each made once for each distinct choice."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from tlimb import splits
from tlimb.config import Sweep
from tlimb.errors import Problem
from tlimb.files import digest
from tlimb.search.kinds import fitted_problems, source_head_problems
from tlimb.search.named import Names
from tlimb.search.preprocessed import Recipes
from tlimb.search.scans import (
    SECOND,
    TRAINING,
    StageScans,
    asked_of,
    columns_of,
    labels_of,
    role_of,
    second_of,
    term_columns,
    with_events,
)
from tlimb.search.second import second_rows
from tlimb.search.space import expand

ROLES = ("labelled", "unlabelled", "source", "target")
"""Keys of a stage's data that choose scans."""
ROWS = ["scan_id", "person", "role", "times", "chunk", "split"]


@dataclass(frozen=True)
class Division:
    """Rows of a split; the persons it validates and tests on, and all whom it divided, drawn for training or not.

    measured: equal for splits whose rows but for a second set of scans are equal.
    """

    id: str
    measured: str
    rows: pd.DataFrame
    held_out: frozenset
    everyone: frozenset


class Planner:
    """Resolves stages to scans, once for each distinct choice, and gathers the problems met on the way."""

    def __init__(self, sweep: Sweep, table: pd.DataFrame, labels: dict, recipes: Recipes, split_file: dict | None):
        self.sweep, self.table, self.labels, self.recipes = sweep, table, labels, recipes
        self.problems: list[Problem] = []
        self.names = Names(sweep, table, labels, self.problems)
        self.scans = StageScans(sweep, table, labels, recipes, self.problems)
        self._folds = [split_file[name] for name in sorted(split_file or {}, key=lambda name: (len(name), name))]
        self._made: dict[str, Division | None] = {}
        self._measured: dict[str, str] = {}
        self._earlier: dict[str, Division | None] = {}
        self._sites: dict[str, list[list[str]]] = {}
        self._eligible: dict[str, pd.DataFrame] = {}
        self._described: dict[str, str] = {}
        self._known: dict[str, bool] = {}
        self._varied: dict[str, bool] = {}

    def rows(self, used: set[str]) -> pd.DataFrame:
        """The rows of the splits made that are used. used: their ids."""
        made = {split.id: split.rows.assign(split=split.id) for split in self._made.values() if split is not None}
        parts = [made[key] for key in sorted(used)]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=ROWS)

    def trials(self, points: list[dict]) -> Iterator[dict]:
        """The specs of all trials: each point once for every part that its split asks for."""
        for point in points:
            self.names.check_monitors(point)
            stage, split = point["stages"][-1], point["split"]
            earlier = [self._is_known(each, each["split"]) for each in point["stages"][:-1]]
            if not all([*earlier, self._is_known(stage, None)]) or not self.names.check_split("split", split):
                continue
            self.problems += fitted_problems(point, self.labels) + source_head_problems(point, self.labels)
            if split["scheme"] == "file" and not self._folds:
                self.problems.append(Problem("split.file", "the cohort was read without a split file"))
                continue
            try:
                yield from expand(point, self._held_out(stage, split), len(self._folds))
            except ValueError as error:
                self.problems.append(Problem("split", str(error)))

    def _is_known(self, stage: dict, split: dict | None) -> bool:
        """Whether all that a stage names is there."""
        key = digest([stage, split])
        if key not in self._known:
            self._known[key] = self.names.check_stage(stage, split)
        return self._known[key]

    def _held_out(self, stage: dict, split: dict) -> list[list[str]]:
        """The sites that are held out in turn, none in other schemes."""
        key = digest([stage["data"], stage["targets"], split])
        if key not in self._sites:
            self._sites[key] = self.scans.sites(stage, split) if split["scheme"] == "site" else []
        return self._sites[key]

    def target_split(self, spec: dict) -> Division | None:
        """The split of the last stage, with the external cohorts."""
        stage = spec["stages"][-1]
        asked = digest([asked_of(stage["data"]), stage["data"]["recipe"], stage["targets"], spec["split"]])
        key = digest([asked, labels_of(stage), second_of(stage["data"])])
        if key not in self._made:
            self._made[key] = made = self._divide(stage, spec["split"], external=self.sweep.evaluate.external)
            if made is not None and self._measured.setdefault(asked, made.measured) != made.measured:
                self._made[key] = None
                message = "scans without it are dropped, so that candidates would not be measured on the same people"
                hint = "fill the label, or draw by the same one everywhere"
                self.problems.append(Problem(f"stages.{stage['name']}.data.sampler.init_args.label", message, hint))
        found = self._made[key]
        return found if found is None or self._has_columns(stage, found) else None

    def _has_columns(self, stage: dict, split: Division) -> bool:
        """Whether the label columns that a stage's terms look at have two values or more among those who train."""
        key = digest([stage["objective"], stage["targets"], split.id])
        if key not in self._varied:
            self._varied[key] = self.scans.check_columns(split.rows, stage)
        return self._varied[key]

    def chain(self, spec: dict, target: Division) -> list[dict] | None:
        """The pretrainings a trial starts from, first to last; empty for a trial from scratch."""
        splits = self._earlier_splits(spec["stages"][:-1], target)
        if splits is None:
            return None
        lines, parent = [], ""
        for level, (stage, split) in enumerate(zip(spec["stages"], splits), start=1):
            architecture = stage["architecture"] or spec["architecture"]
            own = {"architecture": architecture, "stage": stage | {"architecture": None}, "seed": spec["seed"]}
            identity = self._pretraining_id(own, split, parent)
            lines.append({
                "id": identity, "parent": parent, "level": level, "split": split.id,
                "stage": stage["name"], "seed": spec["seed"], "spec": own,
            })
            parent = identity
        return lines

    def _earlier_splits(self, stages: list[dict], target: Division) -> list[Division] | None:
        """The splits of the stages before the last, each without the people whom a later one holds out."""
        found: list[Division] = []
        for stage in reversed(stages):
            split = self._earlier_split(stage, target, found)
            if split is None:
                return None
            found.insert(0, split)
        return found

    def _earlier_split(self, stage: dict, target: Division, later: list[Division]) -> Division | None:
        """The split of a stage before the last; it depends on later ones through the people it must bar alone."""
        data, recipe = stage["data"], stage["data"]["recipe"]
        asked, second = asked_of(data), second_of(data)
        about = [asked, second, recipe, stage["targets"], labels_of(stage), stage["split"]]
        own = digest([*about, stage["disjoint"], target.id, *(split.id for split in later)])
        if own not in self._earlier:
            barred = target.everyone if stage["disjoint"] else target.held_out
            barred = barred.union(*(split.held_out for split in later))
            cohorts = [*asked["cohort"], *(second[1]["cohort"] if second else [])]
            barred &= frozenset(self.table.loc[self.table["cohort"].isin(cohorts), "person"])
            key = digest([*about, sorted(barred)])
            if key not in self._made:
                self._made[key] = self._divide(stage, stage["split"], barred)
            self._earlier[own] = self._made[key]
        found = self._earlier[own]
        return found if found is None or self._has_columns(stage, found) else None

    def _pretraining_id(self, spec: dict, split: Division, parent: str) -> str:
        """Equal exactly when everything that changes the encoder's numbers is equal."""
        stage = {key: value for key, value in spec["stage"].items() if key not in ("disjoint", "split")}
        stage["data"] = {key: value for key, value in stage["data"].items() if key not in ROLES}
        recipe = spec["stage"]["data"]["recipe"]
        scans = self._scans_digest(split, recipe, columns_of(spec["stage"], self.labels), stage["targets"])
        named = dict.fromkeys([*stage["targets"], *term_columns(spec["stage"])])
        meaning = {name: [self.labels[name][key] for key in ("kind", "classes")] for name in named}
        made_from = [scans, meaning, self.recipes.fingerprint[recipe], parent]
        return digest([stage, spec["architecture"], spec["seed"], *made_from])

    def _scans_digest(self, split: Division, recipe: str, labels: list[str], targets: list[str]) -> str:
        """A digest of the scans of a split with their roles, file contents and labels; those of targets that are hidden
        in a second set count for nothing."""
        key = digest([split.id, recipe, labels, targets])
        if key not in self._described:
            digests = self.recipes.index[recipe].set_index("scan_id")["digest"]
            known = self.table.set_index("scan_id")[labels].astype("str").fillna("").loc[split.rows["scan_id"]]
            hidden = split.rows["role"].isin(SECOND).to_numpy()
            for name in with_events(targets, self.labels):
                known[name] = known[name].mask(hidden, "")
            rows = split.rows[["scan_id", "role"]].assign(digest=digests.loc[split.rows["scan_id"]].to_numpy())
            self._described[key] = digest([rows.to_numpy().tolist(), known.to_numpy().tolist()])
        return self._described[key]

    def _divide(self, stage: dict, split: dict, barred=frozenset(), external=()) -> Division | None:
        labelled, recipe, role = asked_of(stage["data"]), stage["data"]["recipe"], role_of(stage["data"])
        site = split["scheme"], split["column"]
        key = digest([role, labelled, recipe, stage["targets"], labels_of(stage), *site])
        if key not in self._eligible:
            self._eligible[key] = self.scans.eligible(stage, split)
        scans = self._eligible[key][lambda rows: ~rows["person"].isin(barred)]
        if split["scheme"] == "site":
            self.scans.check_straddling(scans, split)
        people = scans.drop_duplicates("person").set_index("person")
        listed = self._folds[split["fold"]] if split["scheme"] == "file" else None
        kinds = {name: self.labels[name]["kind"] for name in split["stratify"]}
        try:
            people = people.loc[splits.draw(list(people.index), labelled["n"] or len(people), split["seed"])]
            parts = splits.divide(people, split, kinds, listed)
        except ValueError as error:
            where = f"stages.{stage['name']} (cohort {', '.join(labelled['cohort'])})"
            self.problems.append(Problem(where, str(error)))
            return None
        rows = scans[scans["person"].isin(parts.index)]
        rows = rows.assign(role=rows["person"].map(parts["role"]), times=rows["person"].map(parts["times"]))
        if stage["data"]["source"]:
            rows = rows.assign(role=rows["role"].replace("test", "external:source"))
        if not self.scans.check_classes(rows, stage, split):
            return None
        rows = pd.concat([rows, *(self.scans.external(stage, item.cohort, rows) for item in external)])
        divided = list(people.index)
        if second_of(stage["data"]) is not None:
            apart = barred | frozenset(rows["person"]) | (frozenset(divided) if role == "source" else frozenset())
            more = second_rows(stage, split, self.scans.second(stage, split), apart, listed, kinds, self.problems)
            if more is None or not self.scans.check_domain(stage, rows, more):
                return None
            rows, divided = pd.concat([rows, more]), [*divided, *more["person"]]
        return _split_of(rows, divided)


def _split_of(rows: pd.DataFrame, divided) -> Division:
    rows = rows.sort_values("scan_id")[["scan_id", "person", "role", "times", "chunk"]].reset_index(drop=True)
    held_out = frozenset(rows.loc[~rows["role"].isin(TRAINING), "person"])
    facts = rows[["scan_id", "role", "times"]]
    identity, measured = (digest(part.to_numpy().tolist()) for part in (facts, facts[~rows["role"].isin(SECOND)]))
    return Division(identity, measured, rows, held_out, held_out | frozenset(divided))
