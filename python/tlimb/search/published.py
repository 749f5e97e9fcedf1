"""Published weights that stages start from, held against the sweep before anything runs."""

from collections.abc import Iterator
from pathlib import Path

from tlimb.config import Sweep
from tlimb.errors import Problem
from tlimb.files import read_json
from tlimb.persons import person_digest
from tlimb.search.scans import TRAINING
from tlimb.search.suggest import Proposal
from tlimb.weights.kinds import file_problems, map_problems, tlimb_kind


def weights_problems(proposal: Proposal, sweep: Sweep, places: dict[str, tuple[Path, str]]) -> list[Problem]:
    """What can be told of weights and of the maps of their names without reading a tensor.

    A folder of tlimb says besides how its scans were prepared and who was among them. places: as of `Files.weights`.
    """
    problems = []
    for stage, split in _starting(proposal):
        weights, where = stage["weights"], f"stages.{stage['name']}.weights"
        map_name = weights["map"] if isinstance(weights["map"], str) else None
        place, map_file = (places[name][0] if name in places else None for name in (weights["path"], map_name))
        if place is None:
            problems += map_problems(weights["map"], f"{where}.map", map_file) if weights["map"] is not None else []
            continue
        found = file_problems(place, weights, where, map_file)
        if not found and tlimb_kind(place):
            recipe = sweep.recipes[stage["data"]["recipe"]].model_dump()
            found = _folder_problems(place, recipe, proposal, split, f"{where}.path")
        problems += found
    return list(dict.fromkeys(problems))


def _starting(proposal: Proposal) -> Iterator[tuple[dict, str]]:
    """Each stage that starts from weights, with its split."""
    stages = [(trial["spec"]["stages"][-1], trial["split"]) for trial in proposal.trials]
    stages += [(line["spec"]["stage"], line["split"]) for line in proposal.pretrainings]
    return ((stage, split) for stage, split in stages if stage["weights"])


def _folder_problems(folder: Path, recipe: dict, proposal: Proposal, split: str, where: str) -> list[Problem]:
    facts = read_json(folder / f"{tlimb_kind(folder)}.json")
    theirs = facts.get("recipe") or {}
    other = [key for key in recipe if theirs.get(key, recipe[key]) != recipe[key]]
    differing = [f"{key} {theirs[key]} against {recipe[key]}" for key in other]
    problems = []
    if differing:
        message = f"its scans were prepared otherwise: {', '.join(differing)}"
        problems.append(Problem(where, message, "set the recipe to theirs"))
    rows = proposal.splits
    held_out = sorted(set(rows.loc[(rows["split"] == split) & ~rows["role"].isin(TRAINING), "person"]))
    seen = set(facts["persons"])
    known = [person for person in held_out if person_digest(person) in seen]
    if known:
        share = f"{len(known)} of {len(held_out)} persons who are held out"
        hint = "hold out others, or start from weights that have not seen them"
        problems.append(Problem(where, f"{share} took part in its training, such as {known[0]}", hint))
    return problems
