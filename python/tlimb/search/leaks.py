"""That nobody, and no image, stands on both sides: checked on every round, whatever made the splits."""

import pandas as pd

from tlimb.errors import InputError, Problem
from tlimb.search.preprocessed import Recipes
from tlimb.search.scans import TRAINING
from tlimb.splits import require_disjoint


def content_problems(recipes: Recipes, table: pd.DataFrame) -> list[Problem]:
    """A problem for each image that stands under two persons, whatever their roles and the stages that use them.

    Images are compared by the digest of what they decode to, so that another name, compression or orientation hides
    nothing; by the file's bytes where a store does not tell. table: as cohort.parquet.
    """
    known = [
        pd.DataFrame({"scan_id": index["scan_id"], "content": index.get("content", index["digest"])})
        for index in recipes.index.values()
    ]
    scans = pd.concat(known).drop_duplicates().merge(table[["scan_id", "person"]], on="scan_id")
    scans = scans[scans["content"].notna() & (scans["content"] != "")]
    several = scans[scans.groupby("content")["person"].transform("nunique") > 1]
    return [_one_image(same.sort_values("scan_id")) for _, same in several.groupby("content")]


def _one_image(same: pd.DataFrame) -> Problem:
    persons, scans = sorted(set(same["person"])), sorted(set(same["scan_id"]))
    message = f"the same image stands for {' and '.join(persons)}"
    return Problem(f"scans {' and '.join(scans)}", message, "if it is one person, say so in the column 'person'")


def require_no_leak(trials: list[dict], pretrainings: list[dict], rows: pd.DataFrame) -> None:
    """Stop where a person has two roles in a split, or is held out in a trial or a pretraining and took part in what
    it starts from.

    trials, pretrainings: lines of a round; rows: those of its splits (split, person, role).
    """
    require_disjoint(rows)
    lines = {line["id"]: line for line in pretrainings}
    everyone = {split: set(part["person"]) for split, part in rows.groupby("split")}
    apart = rows[~rows["role"].isin(TRAINING)]
    held_out = {split: set(part["person"]) for split, part in apart.groupby("split")}
    crossing = {}
    starting = {(trial["split"], trial["init"]) for trial in trials}
    starting |= {(line["split"], line["parent"]) for line in pretrainings}
    for split, init in starting:
        while init:
            for person in held_out[split] & everyone[lines[init]["split"]]:
                crossing[person, split, init] = None
            init = lines[init]["parent"]
    if crossing:
        message = "is held out there and takes part in pretraining"
        raise InputError([Problem(f"split {s}", f"person '{p}' {message} {i}") for p, s, i in sorted(crossing)])
