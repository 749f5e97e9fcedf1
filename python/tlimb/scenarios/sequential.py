"""One set of scans after the other: the scenario of pretraining and fine-tuning."""

from tlimb.scenarios.scenario import Scenario


class Sequential(Scenario):
    """Each step sees labelled scans alone (scans without labels in a stage without targets). An epoch shows each of
    them once, or as the stage's sampler says. Where a stage has two sets, the second one is left out."""
