"""The next trials of a sweep with their splits and pretrainings: a pure function of sweep, cohort and store index."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd

from tlimb import splits
from tlimb.config import Sweep
from tlimb.errors import InputError, Problem
from tlimb.files import digest
from tlimb.search.kinds import fitted_problems
from tlimb.search.leaks import content_problems, require_no_leak
from tlimb.search.named import Names
from tlimb.search.preprocessed import Recipes
from tlimb.search.scans import StageScans, asked_of, columns_of, labels_of
from tlimb.search.space import candidate_of, expand, grid


@dataclass
class Proposal:
    """A round: trials, distinct pretrainings, and the rows of every split.

    splits: columns split, scan_id, person, role, times (how often a training scan is drawn), chunk.
    """

    trials: list[dict] = field(default_factory=list)
    pretrainings: list[dict] = field(default_factory=list)
    splits: pd.DataFrame = field(default_factory=pd.DataFrame)


def suggest(
    sweep: Sweep,
    table: pd.DataFrame,
    labels: dict,
    recipes: Recipes,
    round_number: int = 1,
    trusted=(),
    split_file: dict | None = None,
    files: dict | None = None,
) -> Proposal:
    """Every trial of the grid with the split it is measured on and the encoder it starts from.

    table: as cohort.parquet; labels, split_file, files: as in cohort.json. Raises InputError with every problem that
    the data make of the sweep: an unknown cohort, label or site, a missing label, one class only, too few people, one
    image of two persons.
    """
    planner = _Planner(sweep, table, labels, recipes, split_file)
    planner.names.check_sweep()
    planner.problems += content_problems(recipes, table)
    try:
        points = grid(sweep, trusted, files)
    except InputError as error:
        raise InputError(list(dict.fromkeys(planner.problems + error.problems))) from None
    proposal, pretrainings = Proposal(), {}
    for spec in planner.trials(points):
        target = planner.target_split(spec)
        chain = planner.chain(spec, target) if target is not None else None
        if chain is None:
            continue
        pretrainings |= {line["id"]: line for line in chain}
        line = {"id": digest(spec), "candidate": candidate_of(spec), "round": round_number, "split": target.id}
        line |= {"init": chain[-1]["id"] if chain else "", "budget": spec["stages"][-1]["epochs"], "spec": spec}
        proposal.trials.append(line)
    if planner.problems:
        raise InputError(list(dict.fromkeys(planner.problems)))
    proposal.pretrainings = list(pretrainings.values())
    proposal.splits = planner.rows()
    require_no_leak(proposal.trials, proposal.pretrainings, proposal.splits)
    return proposal


@dataclass(frozen=True)
class _Split:
    """Rows of a split; the persons it validates and tests on, and all whom it divided, drawn for training or not."""

    id: str
    rows: pd.DataFrame
    held_out: frozenset
    everyone: frozenset


class _Planner:
    """Resolves stages to scans, once for each distinct choice, and gathers the problems met on the way."""

    def __init__(self, sweep: Sweep, table: pd.DataFrame, labels: dict, recipes: Recipes, split_file: dict | None):
        self.sweep, self.table, self.labels, self.recipes = sweep, table, labels, recipes
        self.problems: list[Problem] = []
        self.names = Names(sweep, table, labels, self.problems)
        self.scans = StageScans(sweep, table, labels, recipes, self.problems)
        self._folds = [split_file[name] for name in sorted(split_file or {}, key=lambda name: (len(name), name))]
        self._made: dict[str, _Split | None] = {}
        self._measured: dict[str, str] = {}
        self._earlier: dict[tuple[str, str], _Split | None] = {}
        self._sites: dict[str, list[list[str]]] = {}
        self._eligible: dict[str, pd.DataFrame] = {}
        self._described: dict[str, str] = {}

    def rows(self) -> pd.DataFrame:
        """The rows of every split made."""
        made = {split.id: split.rows.assign(split=split.id) for split in self._made.values() if split is not None}
        return pd.concat([made[key] for key in sorted(made)], ignore_index=True)

    def trials(self, points: list[dict]) -> Iterator[dict]:
        """The specs of all trials: each point once for every part that its split asks for."""
        for point in points:
            self.names.check_monitors(point)
            stage, split = point["stages"][-1], point["split"]
            if not self.names.check_stage(stage, None) or not self.names.check_split("split", split):
                continue
            self.problems += fitted_problems(point, self.labels)
            if split["scheme"] == "file" and not self._folds:
                self.problems.append(Problem("split.file", "the cohort was read without a split file"))
                continue
            try:
                yield from expand(point, self._held_out(stage, split), len(self._folds))
            except ValueError as error:
                self.problems.append(Problem("split", str(error)))

    def _held_out(self, stage: dict, split: dict) -> list[list[str]]:
        """The sites that are held out in turn, none in other schemes."""
        key = digest([stage["data"], stage["targets"], split])
        if key not in self._sites:
            self._sites[key] = self.scans.sites(stage, split) if split["scheme"] == "site" else []
        return self._sites[key]

    def target_split(self, spec: dict) -> _Split | None:
        """The split of the last stage, with the external cohorts."""
        stage = spec["stages"][-1]
        asked = digest([asked_of(stage["data"]), stage["data"]["recipe"], stage["targets"], spec["split"]])
        key = digest([asked, labels_of(stage)])
        if key not in self._made:
            self._made[key] = made = self._divide(stage, spec["split"], external=self.sweep.evaluate.external)
            if made is not None and self._measured.setdefault(asked, made.id) != made.id:
                message = "scans without it are dropped, so that candidates would not be measured on the same people"
                hint = "fill the label, or draw by the same one everywhere"
                self.problems.append(Problem(f"stages.{stage['name']}.data.sampler.init_args.label", message, hint))
        return self._made[key]

    def chain(self, spec: dict, target: _Split) -> list[dict] | None:
        """The pretrainings a trial starts from, first to last; empty for a trial from scratch."""
        lines, parent = [], ""
        for level, stage in enumerate(spec["stages"][:-1], start=1):
            split = self._earlier_split(stage, target)
            if split is None:
                return None
            architecture = stage["architecture"] or spec["architecture"]
            own = {"architecture": architecture, "stage": stage | {"architecture": None}, "seed": spec["seed"]}
            identity = self._pretraining_id(own, split, parent)
            lines.append({
                "id": identity, "parent": parent, "level": level, "split": split.id,
                "stage": stage["name"], "seed": spec["seed"], "spec": own,
            })
            parent = identity
        return lines

    def _earlier_split(self, stage: dict, target: _Split) -> _Split | None:
        """The split of a stage before the last; it depends on the target's through the people it must bar alone."""
        labelled, recipe = asked_of(stage["data"]), stage["data"]["recipe"]
        own = digest([labelled, recipe, stage["targets"], labels_of(stage), stage["split"], stage["disjoint"]])
        if (own, target.id) not in self._earlier:
            barred = target.everyone if stage["disjoint"] else target.held_out
            barred &= frozenset(self.table.loc[self.table["cohort"].isin(labelled["cohort"]), "person"])
            key = digest([labelled, recipe, stage["targets"], labels_of(stage), stage["split"], sorted(barred)])
            if key not in self._made:
                known = self.names.check_stage(stage, stage["split"])
                self._made[key] = self._divide(stage, stage["split"], barred) if known else None
            self._earlier[own, target.id] = self._made[key]
        return self._earlier[own, target.id]

    def _pretraining_id(self, spec: dict, split: _Split, parent: str) -> str:
        """Equal exactly when everything that changes the encoder's numbers is equal."""
        stage = {key: value for key, value in spec["stage"].items() if key not in ("disjoint", "split")}
        stage["data"] = {key: value for key, value in stage["data"].items() if key not in ("labelled", "unlabelled")}
        recipe = spec["stage"]["data"]["recipe"]
        scans = self._scans_digest(split, recipe, columns_of(spec["stage"], self.labels))
        meaning = {name: [self.labels[name][key] for key in ("kind", "classes")] for name in stage["targets"]}
        made_from = [scans, meaning, self.recipes.fingerprint[recipe], parent]
        return digest([stage, spec["architecture"], spec["seed"], *made_from])

    def _scans_digest(self, split: _Split, recipe: str, labels: list[str]) -> str:
        """A digest of the scans of a split with their roles, file contents and labels."""
        key = digest([split.id, recipe, labels])
        if key not in self._described:
            digests = self.recipes.index[recipe].set_index("scan_id")["digest"]
            known = self.table.set_index("scan_id")[labels].astype("str").loc[split.rows["scan_id"]]
            rows = split.rows[["scan_id", "role"]].assign(digest=digests.loc[split.rows["scan_id"]].to_numpy())
            self._described[key] = digest([rows.to_numpy().tolist(), known.to_numpy().tolist()])
        return self._described[key]

    def _divide(self, stage: dict, split: dict, barred=frozenset(), external=()) -> _Split | None:
        labelled, recipe = asked_of(stage["data"]), stage["data"]["recipe"]
        key = digest([labelled, recipe, stage["targets"], labels_of(stage), split["scheme"], split["column"]])
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
        if not self.scans.check_classes(rows, stage, split):
            return None
        rows = pd.concat([rows, *(self.scans.external(stage, item.cohort, rows) for item in external)])
        return _split_of(rows, people.index)


def _split_of(rows: pd.DataFrame, divided) -> _Split:
    rows = rows.sort_values("scan_id")[["scan_id", "person", "role", "times", "chunk"]].reset_index(drop=True)
    held_out = frozenset(rows.loc[rows["role"] != "train", "person"])
    identity = digest(rows[["scan_id", "role", "times"]].to_numpy().tolist())
    return _Split(identity, rows, held_out, held_out | frozenset(divided))
