"""The second set of scans of a stage: unlabelled ones beside labelled, or those of the domain to adapt to."""

import pandas as pd

from tlimb import splits
from tlimb.errors import Problem
from tlimb.search.scans import second_of

DOMAIN_ROLES = {"train": "target", "validation": "external:target-validation", "test": "test"}
"""What the parts of a target domain are called: its test part is what the stage is tested on."""


def second_rows(
    stage: dict,
    split: dict,
    scans: pd.DataFrame,
    apart: frozenset,
    listed: dict | None,
    kinds: dict[str, str],
    problems: list[Problem],
) -> pd.DataFrame | None:
    """The scans of a stage's second set with their roles, none of them of a person of the first set; None, with the
    reason added to `problems`, where there are none.

    scans: those that `data` asks for. apart: persons who must not take part: those of the first set, of external
    cohorts and all who are barred. listed, kinds: as for `tlimb.splits.divide`. Unlabelled scans train. Of a target
    domain, persons are divided as the split says: some train, some are kept apart, and on some the stage is tested; who
    is measured must have a target. Strata are those of the split, by a target too where the split says so: who is tested
    should have every class, and training is told no more than who trains.
    """
    role, asked = second_of(stage["data"])
    where = f"stages.{stage['name']}.data.{role}"
    scans = scans[~scans["person"].isin(apart)]
    people = scans.drop_duplicates("person").set_index("person")
    try:
        chosen = splits.draw(list(people.index), asked["n"] or len(people), split["seed"])
        if not chosen:
            raise ValueError("nobody is left who has no part in the first set of scans")
        strata = [name for name in split["stratify"] if people[name].notna().any()]
        parts = _parts(role, people.loc[chosen], split | {"stratify": strata}, listed, kinds)
    except ValueError as error:
        problems.append(Problem(where, str(error)))
        return None
    scans = scans[scans["person"].isin(parts.index)]
    scans = scans.assign(role=scans["person"].map(parts), times=1)
    unknown = scans[stage["targets"]].isna().all(axis=1) & (scans["role"] != role)
    scans = scans[~unknown]
    lacking = [name for name in sorted(set(parts)) if name not in set(scans["role"])]
    if lacking:
        problems.append(Problem(where, f"no scan with {', '.join(stage['targets'])} is left for {', '.join(lacking)}"))
        return None
    return scans


def _parts(role: str, people: pd.DataFrame, split: dict, listed: dict | None, kinds: dict[str, str]) -> pd.Series:
    """Person -> role. Raises ValueError where a part would be empty."""
    if role == "unlabelled":
        return pd.Series(role, index=people.index)
    if split["scheme"] == "site":
        raise ValueError("scheme 'site' holds sites out of one set; name those of each domain by `where` instead")
    return splits.divide(people, split | {"n": None, "replicate": None}, kinds, listed)["role"].replace(DOMAIN_ROLES)
