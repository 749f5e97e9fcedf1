"""Whether every part of a split holds what its target needs to be learned and measured."""

import pandas as pd

from tlimb.labels import CLASSES, classes_in, classes_of


def single_class(rows: pd.DataFrame, label: str, facts: dict) -> str:
    """The only class of a label that has classes and should have two or more, empty if there are enough.

    facts: the label as in cohort.json. A label that nobody has is not told here.
    """
    found = classes_of(rows[label], facts["kind"]) if facts["kind"] in CLASSES else set()
    return found.pop() if len(found) == 1 else ""


def lacking_parts(rows: pd.DataFrame, label: str, facts: dict) -> list[str]:
    """What some part of a split lacks, a message each: a class, of several at once anybody without it, an event.

    rows: the scans of a split with their role and labels, none of them missing.
    """
    parts, kind = list(rows.groupby("role")), facts["kind"]
    if kind == "survival":
        return [
            f"the event '{facts['event']}' was seen in nobody who is left for {role}"
            for role, part in parts
            if not (part[facts["event"]] == 1).any()
        ]
    if kind not in CLASSES:
        return []
    everywhere, messages = classes_of(rows[label], kind), []
    for role, part in parts:
        absent = everywhere - classes_of(part[label], kind)
        if absent:
            messages.append(f"nobody of class {', '.join(sorted(absent))} of '{label}' is left for {role}")
        if kind == "multilabel":
            shared = everywhere.intersection(*(classes_in(cell) for cell in set(part[label])))
            if shared:
                messages.append(f"nobody without class {', '.join(sorted(shared))} of '{label}' is left for {role}")
    return messages
