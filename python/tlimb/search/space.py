"""From points of the search space to the specs of trials, and what is wrong with either."""

from collections.abc import Iterator
from contextlib import suppress

from tlimb import registry, splits
from tlimb.config import ClassSpec, Split, Stage, Sweep, TrialBase
from tlimb.errors import InputError, Problem, nearest
from tlimb.files import canonical_json, digest
from tlimb.parse import parse
from tlimb.search.alone import Alone, Varied, each_alone
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
        found: list[Problem] = []
        space, unless = with_presets(sweep.search, sweep.stages[-1].name, found)
        self.space = read_space(space, unless, sweep.search.method == "grid", found)
        self._alone = each_alone(self.space, self._base)
        varied = Varied(self.space, self._base, self._alone)
        problems = _base_problems(sweep, trusted, varied.at_all()) + found
        self.epochs = {sweep.stages[-1].epochs}
        known = {str(problem) for problem in problems}
        for key in self.space.keys:
            problems += self._key_problems(key, known, varied)
        if self.space.finite and sweep.search.method == "grid" and self.space.most > MOST_POINTS:
            message = f"a grid of {self.space.most:,} points; at most {MOST_POINTS:,} are tried one by one"
            problems.append(Problem("search.space", message, "use method random, bayes or halving"))
        if problems:
            raise InputError(list(dict.fromkeys(problems)))

    def _key_problems(self, key: str, known: set[str], varied: Varied) -> list[Problem]:
        """Each value of a key tried alone on the base trial, so that its problems are named by its own place."""
        problems, epochs = [], set()
        for one in self._of_key(key):
            problems += one.problems
            if one.checked:
                problems += _alone_problems(one, self.sweep, known, varied.beside(one), self.trusted)
                epochs.add(one.checked.stages[-1].epochs)
        usual = self.sweep.stages[-1].epochs
        if epochs - {usual}:
            always = usual not in epochs and not self.space.choices[key].when
            self.epochs = epochs if always else self.epochs | epochs
        return problems

    def _of_key(self, key: str) -> list[Alone]:
        return [one for one in self._alone if one.key == key]

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
        return problem in comparison_problems([one.checked.model_dump() for one in self._of_key(key)])

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
        return any(_scans(one.checked.model_dump()) != used for one in self._of_key(key))

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


def _base_problems(sweep: Sweep, trusted, varied: set[str]) -> list[Problem]:
    problems = class_problems(_base(sweep), trusted, varied)
    for i, stage in enumerate(sweep.stages):
        if stage.data.recipe not in sweep.recipes:
            hint = nearest(stage.data.recipe, sweep.recipes)
            problems.append(Problem(f"stages[{i}].data.recipe", f"unknown recipe '{stage.data.recipe}'", hint))
    if sweep.stages[-1].split is not None:
        where = f"stages[{len(sweep.stages) - 1}].split"
        problems.append(Problem(where, "the last stage is divided by the sweep's own 'split'"))
    return problems


def _alone_problems(one: Alone, sweep: Sweep, known: set, varied: set[str], trusted) -> list[Problem]:
    """What one value of the space brings whatever others are, beside what is `known`."""
    found = [p for p in class_problems(one.checked.model_dump(), trusted, varied) if str(p) not in known]
    found = [Problem(f"{one.place}: {problem.where}", problem.message, problem.hint) for problem in found]
    lost = sorted({stage.data.recipe for stage in one.checked.stages} - set(sweep.recipes))
    return found + [Problem(one.place, f"unknown recipe '{name}'", nearest(name, sweep.recipes)) for name in lost]
