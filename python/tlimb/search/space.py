"""From points of the search space to the specs of trials, and what is wrong with either."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import suppress

from tlimb import registry, splits
from tlimb.config import ClassSpec, Split, Stage, Sweep, TrialBase
from tlimb.errors import InputError, Problem, nearest
from tlimb.files import canonical_json, digest
from tlimb.parse import parse
from tlimb.search.blame import blamed
from tlimb.search.classes import class_problems
from tlimb.search.combinations import VOLUME_MODULES, combination_problems, comparison_problems, first_of, is_fitted
from tlimb.search.named_presets import with_presets
from tlimb.search.paths import assign
from tlimb.search.points import Space, read_space

__all__ = ["Candidates", "assign", "candidate_of", "expand", "grid", "resolve"]

MOST_POINTS = 100_000
WHOLE_VOLUMES = ClassSpec(class_path="BaseDataModule").model_dump()
EARLIER_SPLIT = Split(validation=0.1, test=0.1)
"""How the cohort of a stage before the last is divided where the sweep does not say."""


class Candidates:
    """What the points of a sweep's space come to.

    space: the space with that of the sweep's presets. Raises InputError with every problem of the sweep's classes, of
    the space and of each variant and end of a distribution alone. files: those that the sweep names, as in cohort.json.
    """

    def __init__(self, sweep: Sweep, trusted=(), files: dict | None = None):
        self.sweep, self.trusted, self.files, self._base = sweep, trusted, files, _base(sweep)
        self._known: dict[str, tuple[list[dict], list[Problem]]] = {}
        problems = _base_problems(sweep, trusted)
        space, unless = with_presets(sweep.search, sweep.stages[-1].name, problems)
        self.space = read_space(space, unless, sweep.search.method == "grid", problems)
        self.epochs = {sweep.stages[-1].epochs}
        known = {str(problem) for problem in class_problems(self._base, trusted)}
        for key in self.space.keys:
            problems += self._key_problems(key, known, trusted)
        if self.space.finite and sweep.search.method == "grid" and self.space.most > MOST_POINTS:
            message = f"a grid of {self.space.most:,} points; at most {MOST_POINTS:,} are tried one by one"
            problems.append(Problem("search.space", message, "use method random, bayes or halving"))
        if problems:
            raise InputError(list(dict.fromkeys(problems)))

    def _key_problems(self, key: str, known: set[str], trusted) -> list[Problem]:
        """Each value of a key tried alone on the base trial, so that its problems are named by its own place."""
        problems, epochs = [], set()
        for where, value in _alone(self.space, key):
            trial, lost = assign(self._base, key, value)
            if lost:
                return lost
            checked, found = _variant(trial, where, self.sweep, known, trusted)
            problems += found
            epochs |= {checked.stages[-1].epochs} if checked else set()
        usual = self.sweep.stages[-1].epochs
        if epochs - {usual}:
            always = usual not in epochs and not self.space.choices[key].when
            self.epochs = epochs if always else self.epochs | epochs
        return problems

    def specs(self, point: dict) -> list[dict]:
        """The canonical specs of a point, one for each seed, none where it cannot be trained.

        The split of a spec stands as the sweep has it: `expand` makes the trials of its folds and replicates.
        """
        return self._of(point)[0]

    def problems(self, point: dict) -> list[Problem]:
        """Why a point cannot be trained."""
        return self._of(point)[1]

    def identity(self, point: dict) -> str | None:
        """Equal for points that come to the same trials; None where a point cannot be trained."""
        specs = self.specs(point)
        return digest(specs[0]) if specs else None

    def usual(self, key: str) -> int | None:
        """The variant of a key that leaves the base trial as it is, None where none does."""
        for i, variant in enumerate(self.space.choices[key].options):
            trial, lost = assign(self._base, key, variant)
            if not lost and trial == self._base:
                return i
        return None

    def _of(self, point: dict) -> tuple[list[dict], list[Problem]]:
        known = canonical_json({key: point[key] for key in self.space.keys if key in point})
        if known not in self._known:
            self._known[known] = self._resolved(self.trial(point))
        return self._known[known]

    def _resolved(self, trial: dict) -> tuple[list[dict], list[Problem]]:
        try:
            checked = parse(TrialBase, trial)
        except InputError as error:
            return [], error.problems
        problems = class_problems(checked.model_dump(), self.trusted)
        problems += combination_problems(checked, self.sweep.recipes)
        if problems:
            return [], problems
        first = resolve(checked, self.sweep.search.seeds[0], self.files)
        return [first | {"seed": seed} for seed in self.sweep.search.seeds], []

    def refused(self, points: list[dict], fine: list[dict]) -> list[Problem]:
        """The problems of points that cannot be trained, named by the variants that bring them. fine: others."""
        told = [(point, problem) for point in points for problem in self.problems(point)]
        return blamed(self.space, told, bool(fine))

    def differing(self, specs: list[dict]) -> list[Problem]:
        """What keeps candidates from being compared, named by the key that varies it where one alone does."""
        problems = []
        for problem in comparison_problems(specs):
            keys = [key for key in self.space.keys if self._varies(key, problem)]
            wheres = [f"search.space.{key!r}: {problem.where}" for key in keys] or [problem.where]
            problems += [Problem(where, problem.message, problem.hint) for where in wheres]
        return problems

    def _varies(self, key: str, problem: Problem) -> bool:
        trials = [assign(self._base, key, value)[0] for _, value in _alone(self.space, key)]
        return problem in comparison_problems([parse(TrialBase, trial).model_dump() for trial in trials])

    def first(self) -> dict:
        """The trial of the first point of the space, unresolved."""
        space = self.space
        return self.trial(space.point(space.draw(lambda choice: 0 if choice.kind == "variants" else choice.low)))

    def spread(self) -> Iterator[dict]:
        """Trials in which every value that decides on scans or how they are prepared stands with every other."""
        deciding = {key for key in self.space.keys if self._moves_scans(key)}
        for key in reversed(list(self.space.choices)):
            choice = self.space.choices[key]
            deciding |= set(choice.when) if choice.key in deciding else set()
        kept = {one: choice for one, choice in self.space.choices.items() if choice.key in deciding}
        only = Space([key for key in self.space.keys if key in deciding], kept, [])
        for count, draw in enumerate(only.every()):
            if count == MOST_POINTS:
                return
            with suppress(InputError):
                yield parse(TrialBase, self.trial(only.point(draw))).model_dump()

    def _moves_scans(self, key: str) -> bool:
        """Whether any value of a key touches who is trained on, or the recipe."""
        used = _scans(self._base)
        return any(_scans(assign(self._base, key, value)[0]) != used for _, value in _alone(self.space, key))

    def trial(self, point: dict) -> dict:
        """A point's trial as it stands after all is assigned, unresolved."""
        trial = self._base
        for key in self.space.keys:
            if key in point:
                trial, _ = assign(trial, key, point[key], free=True)
        return trial


def grid(sweep: Sweep, trusted=(), files: dict | None = None) -> list[dict]:
    """The canonical specs of every distinct point and seed, seeds innermost.

    Points that come to the same trial (scratch, whatever the pretraining would have been) stand once, those that
    `unless` names not at all. Raises InputError with every problem of the space, its variants and their combinations.
    """
    candidates = Candidates(sweep, trusted, files)
    points = [candidates.space.point(draw) for draw in candidates.space.every()]
    points = [point for point in points if candidates.space.left_out(point) is None]
    fine = [point for point in points if candidates.specs(point)]
    specs: dict[str, dict] = {}
    for spec in (spec for point in fine for spec in candidates.specs(point)):
        specs.setdefault(digest(spec), spec)
    refused = [point for point in points if not candidates.specs(point)]
    problems = candidates.refused(refused, fine) + candidates.differing(list(specs.values()))
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return list(specs.values())


def _scans(trial: dict) -> list:
    """What of a trial decides which scans are prepared and how."""
    named = []
    for stage in trial["stages"]:
        roles = [stage["data"].get(role) or {} for role in ("labelled", "unlabelled", "source", "target")]
        named.append([stage["data"].get("recipe"), *([role.get("cohort"), role.get("modality")] for role in roles)])
    return named


def _alone(space: Space, key: str) -> Iterable[tuple[str, object]]:
    """(place, value) of every value of a key: each variant, of nested choices and distributions first and last."""
    own = [choice for choice in space.choices.values() if choice.key == key]
    for choice in own:
        ends = range(len(choice.options)) if choice.kind == "variants" else (choice.low, choice.high)
        inner = [one for one in own if one.parent and one.parent[0] == choice.address]
        for end in ends:
            if choice.kind == "variants" and any(one.parent[1] == end for one in inner):
                continue
            draw = _path_to(space, choice) | {choice.address: end}
            for one in own:
                if one.address not in draw and one.parent and draw.get(one.parent[0]) == one.parent[1]:
                    draw[one.address] = 0 if one.kind == "variants" else one.low
            where = f"{choice.place}[{end}]" if choice.kind == "variants" else choice.place
            yield where, space.value(key, draw)


def _path_to(space: Space, choice) -> dict:
    """The variants within which a choice stands."""
    draw = {}
    while choice.parent:
        draw[choice.parent[0]] = choice.parent[1]
        choice = space.choices[choice.parent[0]]
    return draw


def expand(spec: dict, sites=(), file_folds: int = 1) -> list[dict]:
    """The trials of one point and seed: one for each repeat, fold, inner fold and replicate of its split.

    sites, file_folds: as for `tlimb.splits.resolved`, which raises ValueError for a pick that is out of range.
    """
    return [spec | {"split": split} for split in splits.resolved(spec["split"], sites, file_folds)]


def resolve(trial: TrialBase, seed: int, files: dict | None = None) -> dict:
    """The canonical spec of a trial: defaults filled in, and only what changes its numbers.

    Stages before the last one that starts from scratch or from published weights leave no trace in the result, so they
    are dropped. files: path as the sweep writes it -> {"digest"}.
    """
    architecture = trial.architecture.model_dump()
    stages = [stage.model_dump() for stage in trial.stages]
    if is_fitted(architecture):
        stages = [_fitted(stages[-1])]
    else:
        stages = stages[first_of(trial.stages) :]
    for i, stage in enumerate(stages):
        anew = i == 0 and not _from_file(stage)
        stage["strategy"] = "scratch" if anew else stage["strategy"] or "full"
        stage["weights"] = None if anew else _with_digest(stage["weights"], files or {})
        earlier = stage is not stages[-1]
        stage["architecture"] = None if stage["architecture"] == architecture else stage["architecture"]
        stage["split"] = splits.resolved(stage["split"] or EARLIER_SPLIT.model_dump())[0] if earlier else None
    stages[-1]["disjoint"] = False
    return {"architecture": architecture, "seed": seed, "split": trial.split.model_dump(), "stages": stages}


def _from_file(stage: dict) -> bool:
    """Whether a stage starts from published weights."""
    named = stage["weights"] is not None and stage["weights"]["path"] is not None
    return named and stage["strategy"] != "scratch"


def _with_digest(weights: dict | None, files: dict) -> dict | None:
    """The weights of a stage with a digest of the files that they stand in."""
    if weights is None or weights["path"] is None:
        return weights
    named = [name for name in (weights["path"], weights["map"]) if isinstance(name, str) and name in files]
    return weights | {"digest": digest([files[name]["digest"] for name in named], 16)}


def _fitted(stage: dict) -> dict:
    """The stage of a network that is fitted and not trained, without what only training looks at; it takes volumes
    whole, whatever part of them others are shown."""
    data = stage["data"] | {"augment": []}
    if registry.locate("module", data["module"]["class_path"]) in VOLUME_MODULES:
        data["module"] = WHOLE_VOLUMES
    usual = Stage(name=stage["name"], targets=stage["targets"], epochs=1, data=data).model_dump()
    return usual | {key: stage[key] for key in ("split", "disjoint")}


def candidate_of(spec: dict) -> str:
    """The id of the candidate of a trial: its spec without the seed and what tells folds and replicates apart."""
    return digest(splits.candidate_spec(spec))


def _base(sweep: Sweep) -> dict:
    return sweep.model_dump(include={"architecture", "stages", "split"})


def _base_problems(sweep: Sweep, trusted) -> list[Problem]:
    problems = class_problems(_base(sweep), trusted)
    for i, stage in enumerate(sweep.stages):
        if stage.data.recipe not in sweep.recipes:
            hint = nearest(stage.data.recipe, sweep.recipes)
            problems.append(Problem(f"stages[{i}].data.recipe", f"unknown recipe '{stage.data.recipe}'", hint))
    if sweep.stages[-1].split is not None:
        where = f"stages[{len(sweep.stages) - 1}].split"
        problems.append(Problem(where, "the last stage is divided by the sweep's own 'split'"))
    return problems


def _variant(trial: dict, where: str, sweep: Sweep, known: set, trusted) -> tuple[TrialBase | None, list[Problem]]:
    """A trial with one value of the space, and what that brings."""
    try:
        checked = parse(TrialBase, copy.deepcopy(trial), where)
    except InputError as error:
        return None, error.problems
    found = [p for p in class_problems(checked.model_dump(), trusted) if str(p) not in known]
    found = [Problem(f"{where}: {problem.where}", problem.message, problem.hint) for problem in found]
    lost = {stage.data.recipe for stage in checked.stages} - set(sweep.recipes)
    found += [Problem(where, f"unknown recipe '{name}'", nearest(name, sweep.recipes)) for name in sorted(lost)]
    return checked, found
