"""What the scores of a study depend on beside its points: the sweep's own trial, and who trains and validates it."""

import pandas as pd

from tlimb.files import digest
from tlimb.search.planner import Planner
from tlimb.search.scans import columns_of
from tlimb.search.space import Candidates


def about_of(candidates: Candidates, planner: Planner) -> dict[str, str]:
    """The key `about` of study.json: digests of the sweep's own trial, before anything is varied, and of the people it
    trains and validates on with their scans and labels, and of the pretrainings that it starts from.

    planner: one of its own, as what it finds wrong with a trial that may never be tried is not told. No label of those
    who are tested on counts, so that no proposal depends on it. `people` is empty where the trial cannot be trained.
    """
    specs = [spec | {"seed": 0} for spec in candidates.specs({})[:1]]
    about = {"trial": digest([candidates.trial({}), specs]), "people": ""}
    found = []
    for spec in planner.trials(specs):
        target = planner.target_split(spec)
        if target is None:
            return about
        chain = planner.chain(spec, target) or []
        found.append([target.id, _scans(planner, spec, target.rows), [line["id"] for line in chain]])
    return about | {"people": digest(found) if found else ""}


def _scans(planner: Planner, spec: dict, rows: pd.DataFrame) -> list:
    """Scan, its content and labels of those of the last stage who train and validate, and what the labels are."""
    stage = spec["stages"][-1]
    names = columns_of(stage, planner.labels)
    seen = rows.loc[rows["role"].isin(["train", "validation"]), "scan_id"]
    known = planner.table.set_index("scan_id").loc[seen, names].astype("str").fillna("")
    digests = planner.recipes.index[stage["data"]["recipe"]].set_index("scan_id")["digest"]
    known.insert(0, "scan", digests.loc[seen], allow_duplicates=True)
    meaning = {name: [planner.labels[name][key] for key in ("kind", "classes")] for name in names}
    return [meaning, known.reset_index().to_numpy().tolist()]
