"""The rows of the cohort that a training sees, and what they say of its labels."""

import pandas as pd

from tlimb.files import canonical_json
from tlimb.labels import ONE_CLASS, classes_of, signed_times
from tlimb.search.scans import SECOND, TRAINING, as_text, labels_of, term_columns, with_cohort

FACTS = ["split", "scan_id", "person", "role", "times"]


class SplitRows:
    """The rows of each split with all labels, made once.

    splits: of a proposal. table, labels: those of the cohort.
    """

    def __init__(self, splits: pd.DataFrame, table: pd.DataFrame, labels: dict):
        self.labels = with_cohort(labels, table)
        self._known = _class_names(table, self.labels).drop(columns=["person"])
        self._splits = dict(iter(splits.groupby("split")))
        self._rows: dict[str, pd.DataFrame] = {}
        self._classes: dict[str, str] = {}

    def of(self, split: str) -> pd.DataFrame:
        """The rows of a split, by scan."""
        if split not in self._rows:
            rows = self._splits[split].merge(self._known, on="scan_id")
            self._rows[split] = rows.sort_values("scan_id", ignore_index=True)
        return self._rows[split]

    def of_all(self, splits: list[str]) -> pd.DataFrame:
        """The rows of several splits, one after the other."""
        return pd.concat([self.of(split) for split in splits], ignore_index=True)

    def classes_of(self, trial: dict) -> str:
        """What a trial's last stage is told of its labels, as text: classes are those among the scans that it sees."""
        stage = trial["spec"]["stages"][-1]
        key = table_key([trial["split"]], stage)
        if key not in self._classes:
            self._classes[key] = canonical_json(self.seen(self.of(trial["split"]), stage)[1])
        return self._classes[key]

    def seen(self, rows: pd.DataFrame, stage: dict) -> tuple[pd.DataFrame, dict]:
        """Rows without the targets that training may not see, and `labels` and `columns` of job.json."""
        hidden = rows["role"].isin(SECOND)
        targets = self.facts(stage["targets"], rows[~hidden])
        masked = rows.assign(**{name: rows[name].mask(hidden) for name in stage["targets"]})
        columns = self.facts(term_columns(stage), masked[rows["role"].isin(TRAINING)])
        return masked[[*FACTS, *dict.fromkeys([*labels_of(stage), *columns])]], {"labels": targets, "columns": columns}

    def facts(self, names: list[str], rows: pd.DataFrame) -> dict:
        """Kind and classes of some label columns, the classes that are among the rows in their order."""
        found = {}
        for name in names:
            present = classes_of(rows[name], self.labels[name]["kind"])
            classes = [one for one in self.labels[name]["classes"] if one in present]
            found[name] = {"kind": self.labels[name]["kind"], "classes": classes}
        return found


def table_key(splits: list[str], stage: dict) -> str:
    """Jobs with the same one have the same tables."""
    return canonical_json([splits, stage["targets"], labels_of(stage), term_columns(stage)])


def _class_names(table: pd.DataFrame, labels: dict) -> pd.DataFrame:
    """The cohort's table without what training does not need: classes as text (1.0 as "1"), and times until which an
    event was not seen negative, so that whoever is shown a time is shown the event with it."""
    known = table[["scan_id", "person", *labels]].copy()
    for name, label in labels.items():
        if label["kind"] in ONE_CLASS:
            known[name] = as_text(known[name])
        elif label["kind"] == "survival":
            known[name] = signed_times(table[name], table[label["event"]])
    return known
