"""Whether weights meet scans that were prepared as those they were trained on."""

from tlimb.errors import Problem
from tlimb.files import read_json
from tlimb.store import Store


def recipe_of(store: Store) -> dict:
    """The preprocessing settings that a store's shards were made by."""
    return read_json(store.folder / f"shard-{store.shards[0]}.json")["recipe"]


def fingerprint_problems(what: str, facts: dict, store: Store) -> list[Problem]:
    """One problem, saying which settings differ, where weights are of another preprocessing than the store; else none.

    what: names the weights. facts: their fingerprint and recipe.
    """
    own, there = facts["fingerprint"], store.fingerprint
    if own == there:
        return []
    one, two = facts.get("recipe", {}), recipe_of(store)
    differing = [
        f"{key} {one.get(key)} against {two.get(key)}" for key in sorted({*one, *two}) if one.get(key) != two.get(key)
    ]
    why = ", ".join(differing) or "same settings, but another template or version of the code"
    message = f"was trained on scans prepared otherwise ({own}) than the store's ({there}): {why}"
    return [Problem(what, message, "preprocess them by the same recipe")]
