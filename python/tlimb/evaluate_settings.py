"""The key `evaluate` of a sweep: how what was trained is measured and looked at."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tlimb.files import read_json
from tlimb.parse import parse
from tlimb.settings import Index, Settings

Share = Annotated[float, Field(gt=0, lt=1)]


class External(Settings):
    """A cohort that is only ever tested on."""

    cohort: str


class OperatingPoint(Settings):
    """Where a probability of the second of two classes is called a case: at a `threshold`, or at the one that on
    validation gives a `sensitivity` or a `specificity` of at least so much, or the largest sum of both (`youden`)."""

    threshold: Share | None = None
    sensitivity: Share | None = None
    specificity: Share | None = None
    youden: bool = False

    @model_validator(mode="after")
    def _one(self):
        if sum(value not in (None, False) for value in self.model_dump().values()) != 1:
            raise ValueError("expected one of `threshold`, `sensitivity`, `specificity` and `youden`")
        return self


Explanation = Literal["occlusion", "integrated_gradients", "grad_cam", "attention"]


class Evaluate(Settings):
    """How models are measured.

    bootstrap: resamples over persons; confidence: of all intervals; seed: of both and of whatever is drawn here.
    groups: label columns by which the scores of what was selected stand apart, numbers in quarters (`age` in decades).
    operating_point: of sensitivity and specificity. coverage: of conformal prediction. dropout: passes with dropout
    left on, 0 for none. probe: score every encoder on the target's training scans before fine-tuning. harmonise: a label
    column, such as `site`, over which features of frozen encoders are harmonised by ComBat, beside what they are
    without; keeping: label columns, such as `age`, whose effects on features it keeps.
    explain: how to show what the selected networks look at; explained: of how many test scans, 0 for
    no look at all.
    """

    external: list[External] = []
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: int = 0
    groups: list[str] = []
    operating_point: OperatingPoint = OperatingPoint(threshold=0.5)
    coverage: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    dropout: Index = 0
    probe: bool = False
    harmonise: str | None = None
    keeping: list[str] = []
    explain: list[Explanation] = []
    explained: Index = 16

    @model_validator(mode="after")
    def _together(self):
        if self.harmonise is not None and not self.probe:
            raise ValueError("`harmonise` is part of what `probe` measures; expected `\"probe\": true` beside it")
        if self.keeping and self.harmonise is None:
            raise ValueError("`keeping` says what harmonising keeps; expected `harmonise`, a label column, beside it")
        if self.explain and not self.explained:
            raise ValueError("`explained` is 0, so no method of `explain` would run; expected a number of scans")
        return self


def read_evaluate(path=None) -> Evaluate:
    """The settings in a JSON file with some keys of `evaluate`; the usual ones where it is silent, or there is none.

    Raises InputError naming the file and each key that is wrong.
    """
    return parse(Evaluate, read_json(path), str(path)) if path else Evaluate()
