"""The key `search` of a sweep: what is tried, and how what to try next is chosen."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tlimb.settings import Count, Settings

MOST_ROUNDS = 8


class Halving(Settings):
    """How candidates are dropped on the way.

    reduction: one candidate of so many survives a rung, and trains so many times longer. least: epochs of the last
    stage in the first rung; where null, a share of 1 / reduction^2 of them, rounded up. brackets: 1 is successive
    halving; more are Hyperband's, each of which begins one rung further up with fewer candidates.
    """

    reduction: Annotated[int, Field(ge=2)] = 3
    least: Count | None = None
    brackets: Count = 1


def _joined(method):
    return method.replace(" ", "") if isinstance(method, str) else method


Method = Annotated[
    Literal["grid", "random", "bayes", "halving", "bayes+halving"], BeforeValidator(_joined, json_schema_input_type=str)
]


class Search(Settings):
    """What is tried: points of `space`, each once for every seed.

    points: how many; of a grid all. rounds: of bayes and bayes+halving, in how many parts they are asked for. seed: of
    the search, not of trainings. sequence: how points are spread that nothing is known of. sampler: what proposes
    points once something is known. presets: named parts of a space that are added to it. unless: points that are left out,
    objects of keys of the space and what they must be at once.
    """

    method: Method = "grid"
    metric: str | None = None
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    seed: int = 0
    points: Count | None = None
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = 4
    sequence: Literal["sobol", "halton", "independent"] = "sobol"
    sampler: Literal["tpe", "gp"] = "tpe"
    halving: Halving = Halving()
    presets: list[str] = []
    space: dict[str, list | dict] = {}
    unless: list[dict] = []

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("seeds are repeated; expected distinct whole numbers")
        return seeds

    @model_validator(mode="after")
    def _counted(self):
        if self.method in ("random", "bayes", "bayes+halving") and self.points is None:
            raise ValueError(f"expected `points`, how many points of the space method {self.method} tries")
        return self
