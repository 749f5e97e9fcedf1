"""Names that a sweep uses: of cohorts, modalities, labels, metrics and monitored values, held against the data."""

import pandas as pd

from tlimb import registry
from tlimb.config import Sweep
from tlimb.errors import Problem, nearest
from tlimb.evaluation.metrics import METRICS
from tlimb.labels import ONE_CLASS
from tlimb.modality import kind_of
from tlimb.search.kinds import kind_problems
from tlimb.search.scans import roles_of, second_of, terms_of

OWN_PARTS = ("source", "target-validation")
BALANCED = registry.SHORT_NAMES["sampler"]["BalancedSampler"]


class Names:
    """Checks names and gathers what is wrong in `problems`. table: as cohort.parquet; labels: as in cohort.json, with
    the cohort among them."""

    def __init__(self, sweep: Sweep, table: pd.DataFrame, labels: dict, problems: list[Problem]):
        self.sweep, self.table, self.labels, self.problems = sweep, table, labels, problems
        self._cohorts = set(table["cohort"])

    def check_sweep(self) -> None:
        """Every name of the sweep itself, so that all that is wrong is told at once."""
        for stage in self.sweep.stages:
            self.check_stage(stage.model_dump(), stage.split.model_dump() if stage.split else None)
        named = [external.cohort for external in self.sweep.evaluate.external]
        for i, name in enumerate(named):
            self.check(f"evaluate.external[{i}].cohort", "cohort", name, self._cohorts)
            if name in OWN_PARTS and self.sweep.stages[-1].data.source is not None:
                message = f"'{name}' is what a part of the stage's own domains is called"
                self.problems.append(Problem(f"evaluate.external[{i}].cohort", message, "give the cohort another name"))
            if name in named[:i]:
                self.problems.append(Problem(f"evaluate.external[{i}].cohort", f"cohort {name} is named twice"))
        for label in self.sweep.labels:
            self.check(f"labels.{label}", "label column", label, self.labels)
        self._check_evaluate()
        self.check_split("split", self.sweep.split.model_dump())
        for target in self.sweep.stages[-1].targets[:1]:
            if not self.sweep.search.metric or target not in self.labels:
                continue
            self.check("search.metric", "metric", self.sweep.search.metric, METRICS[self.labels[target]["kind"]])

    def _check_evaluate(self) -> None:
        """That the label columns by which results are looked at are there."""
        evaluate = self.sweep.evaluate
        for i, name in enumerate(evaluate.groups):
            self.check(f"evaluate.groups[{i}]", "label column", name, self.labels)
        for i, name in enumerate(evaluate.keeping):
            where = f"evaluate.keeping[{i}]"
            known = self.check(where, "label column", name, self.labels)
            if known and (kind := self.labels[name]["kind"]) not in ("regression", *ONE_CLASS):
                kept = "effects of quantities and of classes are kept"
                self.problems.append(Problem(where, f"'{name}' is of kind {kind}; {kept}"))
        for name in sorted(set(evaluate.keeping) & set(self.sweep.stages[-1].targets)):
            message = f"'{name}' is a target: to keep what goes with it would tell the answer"
            self.problems.append(Problem("evaluate.keeping", message, "leave it out"))
        if evaluate.harmonise is not None:
            self._check_column("evaluate.harmonise", evaluate.harmonise, "features are harmonised over classes")

    def check_stage(self, stage: dict, split: dict | None) -> bool:
        """Whether the labels, cohorts and modalities of a stage, and the labels of its split, are all there."""
        where = f"stages.{stage['name']}"
        good = [self.check(f"{where}.targets", "label column", name, self.labels) for name in stage["targets"]]
        second = second_of(stage["data"])
        for role, asked in roles_of(stage["data"]):
            hidden = stage["targets"] if second and role == second[0] else []
            good.append(self._check_role(f"{where}.data.{role}", asked, hidden))
        asked = [(path, term["init_args"].get("column")) for path, term in terms_of(stage["objective"])]
        good += [
            self.check(f"{where}.objective.{path}.init_args.column", "label column", name, self.labels)
            for path, name in asked
            if isinstance(name, str)
        ]
        if all(good[: len(stage["targets"])]):
            found = kind_problems(stage, self.labels)
            self.problems += found
            good.append(not found)
        good.append(self._check_sampler(f"{where}.data.sampler", stage))
        for role, asked in roles_of(stage["data"]):
            good += [self._check_modality(stage, role, name) for name in asked["modality"] or [] if all(good)]
        return all(good) and (split is None or self.check_split(f"{where}.split", split))

    def _check_role(self, where: str, asked: dict, hidden: list[str]) -> bool:
        """Whether the cohorts and the columns by which scans are chosen are there, these have classes, and none of them
        is `hidden`."""
        good = [self.check(f"{where}.cohort", "cohort", name, self._cohorts) for name in asked["cohort"]]
        reason = "scans are chosen by classes"
        good += [self._check_column(f"{where}.where", name, reason) for name in asked["where"]]
        for name in [name for name in asked["where"] if name in hidden]:
            message = f"chooses by '{name}', a target of this stage, of which nothing is known there"
            self.problems.append(Problem(f"{where}.where.{name}", message, "choose by another label"))
            good.append(False)
        return all(good)

    def _check_sampler(self, where: str, stage: dict) -> bool:
        """Whether the label that a stage's sampler draws by is there, and has classes where these are balanced."""
        sampler = stage["data"]["sampler"]
        name = sampler["init_args"].get("label") if sampler else None
        if not isinstance(name, str):
            return True
        if name not in self.labels:
            return name in stage["targets"] or self.check(f"{where}.init_args.label", "label column", name, self.labels)
        balanced = registry.locate("sampler", sampler["class_path"]) == BALANCED
        if not balanced or self.labels[name]["kind"] in ONE_CLASS:
            return True
        reason = f"{sampler['class_path']} draws classes equally often"
        self.problems.append(self._no_classes(f"{where}.init_args.label", name, reason))
        return False

    def _no_classes(self, where: str, name: str, reason: str) -> Problem:
        """That a label has no classes of which each scan has one."""
        kind = self.labels[name]["kind"]
        hint = f'if its numbers are names, say "labels": {{"{name}": "classification"}}'
        return Problem(where, f"'{name}' is of kind {kind}; {reason}", hint if kind == "regression" else "")

    def _check_modality(self, stage: dict, role: str, name: str) -> bool:
        where, data = f"stages.{stage['name']}.data.{role}.modality", stage["data"]
        cohorts = data[role]["cohort"]
        present = set(self.table.loc[self.table["cohort"].isin(cohorts), "modality"])
        if not self.check(where, f"modality of {', '.join(cohorts)}", name, present):
            return False
        recipe = self.sweep.recipes.get(data["recipe"])
        if recipe is None or kind_of(name) == recipe.kind:
            return True
        kinds = {"series": "time series", "volume": "images"}
        message = f"{name} scans are {kinds[kind_of(name)]}, and recipe '{data['recipe']}' takes {kinds[recipe.kind]}"
        self.problems.append(Problem(where, message))
        return False

    def check_split(self, where: str, split: dict) -> bool:
        """Whether the labels that a split names are there, and the one whose values are held out has classes."""
        good = [self.check(f"{where}.stratify", "label column", name, self.labels) for name in split["stratify"]]
        if split["scheme"] == "site":
            reason = "its values cannot be held out one by one"
            good.append(self._check_column(f"{where}.column", split["column"], reason))
        return all(good)

    def _check_column(self, where: str, name: str, reason: str) -> bool:
        if not self.check(where, "label column", name, self.labels):
            return False
        if self.labels[name]["kind"] in ONE_CLASS:
            return True
        self.problems.append(self._no_classes(where, name, reason))
        return False

    def check_monitors(self, spec: dict) -> None:
        """That every stage of a trial monitors something that it measures."""
        for stage in spec["stages"]:
            several = len(stage["targets"]) > 1
            valid = ["validation_loss"]
            for name in stage["targets"]:
                if name in self.labels:
                    prefix = f"validation_{name}_" if several else "validation_"
                    valid += [prefix + metric for metric in METRICS[self.labels[name]["kind"]]]
            self.check(f"stages.{stage['name']}.monitor", "monitored value", stage["monitor"], valid)

    def check(self, where: str, kind: str, name: str, valid) -> bool:
        """Whether `name` is among `valid`; a problem with the nearest valid name where it is not."""
        if name not in valid:
            self.problems.append(Problem(where, f"no {kind} is called '{name}'", nearest(name, valid)))
        return name in valid
