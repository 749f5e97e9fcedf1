"""The next round of a sweep: a pure function of sweep, cohort, store index, the study so far and its scores."""

from dataclasses import dataclass, field

import pandas as pd

from tlimb.config import Sweep
from tlimb.errors import InputError, Problem
from tlimb.evaluation.metrics import DEFAULT, DIRECTIONS
from tlimb.files import canonical_json, digest
from tlimb.search.about import about_of
from tlimb.search.ask import UNTRAINABLE, Draft, Method, Wanted, ask
from tlimb.search.combinations import comparison_problems
from tlimb.search.leaks import content_problems, require_no_leak
from tlimb.search.methods import method_of
from tlimb.search.planner import ROWS, Planner
from tlimb.search.preprocessed import Recipes
from tlimb.search.scans import with_cohort
from tlimb.search.space import Candidates, candidate_of
from tlimb.search.starts import encoder_of
from tlimb.search.study import Asked, LeftOut, Round, Study, extended, new_study

SHOWN = 3
"""Reasons that are told of many."""


@dataclass
class Proposal:
    """A round: trials, the distinct pretrainings that no earlier round asked for, and the rows of every split.

    splits: columns split, scan_id, person, role, times (how often a training scan is drawn), chunk. study: what is
    known once this round is asked for. method: of the search. specs: of trials, of this round or a later one, such that
    every choice of scans and recipe is among them. probes: split -> encoders to score on it, where the sweep asks for
    that.
    """

    trials: list[dict] = field(default_factory=list)
    pretrainings: list[dict] = field(default_factory=list)
    splits: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=ROWS))
    study: Study | None = None
    method: Method | None = None
    specs: list[dict] = field(default_factory=list)
    probes: dict[str, list[str]] = field(default_factory=dict)


def suggest(
    sweep: Sweep,
    table: pd.DataFrame,
    labels: dict,
    recipes: Recipes,
    trusted=(),
    split_file: dict | None = None,
    files: dict | None = None,
    before: Study | None = None,
    earlier: Study | None = None,
) -> Proposal:
    """The trials of the next round with the split each is measured on and the encoder it starts from.

    table: as cohort.parquet; labels, split_file, files: as in cohort.json. before: the study of the round before, with
    the values of its last round told; None in the first round. earlier: in the first round, a study that this one
    extends. Raises InputError with every problem that the data make of the sweep: an unknown cohort, label or site, a
    missing label, one class only, too few people, one image of two persons. In later rounds points that cannot be
    trained are left out and told in the study.
    """
    data = sweep, table, with_cohort(labels, table), recipes, split_file
    planner = Planner(*data)
    planner.names.check_sweep()
    planner.problems += content_problems(recipes, table)
    try:
        candidates = Candidates(sweep, trusted, files)
        study = before or _begun(sweep, candidates, labels, about_of(candidates, Planner(*data)), earlier)
        method = method_of(sweep.search, study.epochs, candidates.space)
        draft = ask(study, method, candidates)
        if before is None:
            _check_first(candidates, draft)
    except InputError as error:
        raise InputError(list(dict.fromkeys(planner.problems + error.problems))) from None
    made = _Making(planner, candidates, study)
    for wanted in draft.wanted:
        made.add(wanted)
    if planner.problems:
        raise InputError(list(dict.fromkeys(planner.problems)))
    return made.proposal(draft, method)


def outlook(sweep: Sweep, proposal: Proposal) -> dict:
    """What all rounds come to at most, from the first one: rounds, trials (again in every rung of halving), and epochs
    of the last stage that they train."""
    points = proposal.study.rounds[0].points
    if proposal.method.rounds == 1:
        epochs = sum(trial["budget"] for trial in proposal.trials)
        return {"rounds": 1, "trials": len(proposal.trials), "epochs": epochs}
    each = max((len(asked.trials) for asked in points), default=0)
    steps = proposal.method.plan(sweep.search.points or len(points))
    trials, epochs = sum(step.points for step in steps), sum(step.points * step.epochs for step in steps)
    return {"rounds": proposal.method.rounds, "trials": each * trials, "epochs": each * epochs}


def _begun(sweep: Sweep, candidates: Candidates, labels: dict, about: dict, earlier: Study | None) -> Study:
    """The study before its first round."""
    halving = "halving" in sweep.search.method
    if halving and len(candidates.epochs) > 1:
        message = f"the last stage's epochs vary ({', '.join(map(str, sorted(candidates.epochs)))})"
        raise InputError([Problem("search.space", f"{message}, and budgets are shares of them", "set one number")])
    targets = candidates.first()["stages"][-1]["targets"]
    target = targets[0] if targets else ""
    kind = labels[target]["kind"] if target in labels else "classification"
    metric = sweep.search.metric or DEFAULT[kind]
    study = new_study(sweep.search, target, metric, DIRECTIONS.get(metric, "max"), max(candidates.epochs), about)
    return extended(study, earlier) if earlier is not None else study


def _check_first(candidates: Candidates, draft: Draft) -> None:
    """Raises InputError where the first round has points that cannot be trained or compared, or none."""
    fine = [wanted.point for wanted in draft.wanted]
    problems = candidates.refused([point for point, why in draft.left_out if why == UNTRAINABLE], fine)
    problems += candidates.differing([spec for point in fine for spec in candidates.specs(point)])
    if not fine and not problems:
        problems.append(Problem("search.unless", "leaves out every point of the space"))
    if problems:
        raise InputError(problems)


class _Making:
    """Trials made from points one by one; in later rounds those that cannot be trained are left out."""

    def __init__(self, planner: Planner, candidates: Candidates, study: Study):
        self.planner, self.candidates, self.study = planner, candidates, study
        self.trials: list[dict] = []
        self.chains: dict[str, dict] = {}
        self.points: list[Asked] = []
        self.left_out: list[LeftOut] = []
        last = study.rounds[-1].points if study.rounds else []
        self.before = {(canonical_json(asked.point), asked.bracket): asked for asked in last}
        self.first: list[dict] = []
        if study.rounds and study.rounds[0].points:
            self.first = candidates.specs(study.rounds[0].points[0].point)[:1]
            for spec in planner.trials(self.first):
                planner.target_split(spec)

    def add(self, wanted: Wanted) -> None:
        """Make the trials of a point, none where all of them have reached their epochs."""
        known = len(self.planner.problems)
        specs = self.candidates.specs(wanted.point)
        before = self._before(wanted)
        if before is not None and all(spec["stages"][-1]["epochs"] <= before.budget for spec in specs):
            self.points.append(before.model_copy(update={"budget": wanted.budget, "why": "carried"}))
            return
        differing = comparison_problems([*self.first, *specs[:1]]) if self.first else []
        chains: dict[str, dict] = {}
        lines = [] if differing else self._lines(specs, wanted, chains)
        found = differing + self.planner.problems[known:]
        if self.study.rounds and (found or not lines):
            del self.planner.problems[known:]
            why = "; ".join(map(str, found)) or "names scans or labels that are not there, as another point does"
            self.left_out.append(LeftOut(point=wanted.point, why=why))
            return
        if lines:
            budget = wanted.budget or lines[0]["budget"]
            facts = {"candidate": lines[0]["candidate"], "budget": budget, "why": wanted.why}
            ids = [line["id"] for line in lines]
            facts |= {"trials": ids, "values": [None] * len(ids), "bracket": wanted.bracket}
            self.points.append(Asked(point=wanted.point, **facts))
        self.trials += lines
        self.chains |= chains

    def _before(self, wanted: Wanted) -> Asked | None:
        """What a survivor was asked for in the rung before."""
        key = canonical_json(wanted.point), wanted.bracket
        return self.before.get(key) if wanted.why == "continued" else None

    def _lines(self, specs: list[dict], wanted: Wanted, chains: dict) -> list[dict]:
        """The lines of trials.jsonl of a point, none where one of its trials cannot be; the pretrainings that they
        start from are added to `chains`."""
        lines, lost = [], False
        for spec in self.planner.trials(specs):
            target = self.planner.target_split(spec)
            chain = self.planner.chain(spec, target) if target is not None else None
            if chain is None:
                lost = True
                continue
            chains |= {line["id"]: line for line in chain}
            epochs = spec["stages"][-1]["epochs"]
            line = {"id": digest(spec), "candidate": candidate_of(spec), "round": len(self.study.rounds) + 1}
            line |= {"split": target.id, "init": chain[-1]["id"] if chain else ""}
            line |= {"budget": min(wanted.budget or epochs, epochs), "spec": spec}
            before = self._before(wanted)
            lines.append(line | ({"continues": before.budget} if before and before.budget < line["budget"] else {}))
        return [] if lost else lines

    def proposal(self, draft: Draft, method: Method) -> Proposal:
        """The round as a whole. Raises InputError where anybody who is held out takes part in a training."""
        chains = list(self.chains.values())
        rows = self.planner.rows({line["split"] for line in [*self.trials, *chains]})
        require_no_leak(self.trials, chains, rows)
        new = [line for line in chains if line["id"] not in self.study.pretrainings]
        sweep, probes = self.planner.sweep, self._probes()
        specs = [trial["spec"] for trial in self.trials]
        if not self.study.rounds and sweep.search.method.startswith("bayes"):
            specs += self.candidates.spread()
        study = self._told(draft, method, [line["id"] for line in new], probes)
        return Proposal(self.trials, new, rows, study, method, specs, probes)

    def _probes(self) -> dict[str, list[str]]:
        """Split -> encoders, published ones among them, to score on it, where the sweep asks for that and no earlier
        round did; of replicates, which are drawn from the same people, the first that is there."""
        if not self.planner.sweep.evaluate.probe:
            return {}
        replicates = {trial["spec"]["split"]["replicate"] or 0 for trial in self.trials}
        found: dict[str, set[str]] = {}
        for trial in self.trials:
            first = (trial["spec"]["split"]["replicate"] or 0) == min(replicates)
            encoder = encoder_of(trial)
            if first and encoder and encoder not in self.study.probed.get(trial["split"], []):
                found.setdefault(trial["split"], set()).add(encoder)
        return {split: sorted(inits) for split, inits in sorted(found.items())}

    def _told(self, draft: Draft, method: Method, pretrainings: list[str], probes: dict) -> Study:
        """The study with this round."""
        study, number = self.study, len(self.study.rounds) + 1
        left_out = [LeftOut(point=point, why=_why(self.candidates, point, why)) for point, why in draft.left_out]
        made = Round(round=number, points=self.points, left_out=left_out + self.left_out)
        finished = number >= method.rounds or not self.points
        rounds = [*study.rounds, made]
        asked = [one for each in rounds for one in each.points]
        said = f"{len({one.candidate for one in asked})} candidates in {number} round{'s' if number > 1 else ''}"
        lost = _lost(made)
        probed = {split: sorted({*study.probed.get(split, []), *inits}) for split, inits in probes.items()}
        return study.model_copy(update={
            "rounds": rounds,
            "again": study.again[1:],
            "given": sum(one.why == "repeated" for one in asked),
            "pretrainings": [*study.pretrainings, *pretrainings],
            "probed": study.probed | probed,
            "finished": finished,
            "reason": "; ".join(filter(None, [study.reason, said if finished else "", lost])),
        })  # fmt: skip


def _lost(made: Round) -> str:
    """That, and why, every point of a round was left out; empty where one was not."""
    if made.points or not made.left_out:
        return ""
    whys = list(dict.fromkeys(left.why for left in made.left_out))
    more = f" (and {len(whys) - SHOWN} other reasons)" if len(whys) > SHOWN else ""
    many = f"all {len(made.left_out)} points" if len(made.left_out) > 1 else "the only point"
    verb = "were" if len(made.left_out) > 1 else "was"
    return f"{many} of round {made.round} {verb} left out: {', or '.join(whys[:SHOWN])}{more}"


def _why(candidates: Candidates, point: dict, why: str) -> str:
    """Why a point is left out, with its problems where it has any."""
    known = all(key in candidates.space.keys for key in point if "[" not in key)
    problems = candidates.problems(point) if known and why == UNTRAINABLE else []
    return ": ".join([why, *filter(None, ["; ".join(map(str, problems))])])
