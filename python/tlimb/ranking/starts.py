"""What a reader must know of trainings that start from weights which others published."""

from collections.abc import Iterable


def published_notes(models: Iterable[dict]) -> list[str]:
    """A note for each file of weights of which nothing is known; tlimb's own say whom they have seen and are checked.

    models: model.json and encoder.json of a run.
    """
    starts = [model.get("start") or {} for model in models]
    unknown = [start for start in starts if start.get("origin") == "file" and "id" not in start]
    notes = []
    for path in sorted({start["path"] for start in unknown}):
        facts = next(start for start in unknown if start["path"] == path)
        made = f" ({facts['trained_on']})" if facts.get("trained_on") else ""
        licence = f"licence {facts['licence']}" if facts.get("licence") else "licence not known"
        notes.append(
            f"Some candidates start from the weights {path}{made}, {licence}: who was scanned for them is not known; "
            "where people who are tested here were among them, scores are optimistic."
        )
    return notes
