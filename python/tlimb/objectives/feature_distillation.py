"""Distillation from the network as training starts from it."""

from typing import Literal

from torch import Tensor, nn

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.objectives.agreement import divergence
from tlimb.objectives.frozen import FrozenEncoder, require_pretrained
from tlimb.objectives.numbers import at_least
from tlimb.objectives.source_heads import source_head
from tlimb.objectives.term import Beginning, Step, Term

WHERE = "objective.auxiliary: FeatureDistillation"


class FeatureDistillation(Term):
    r"""What the encoder makes of the labelled scans stays near what it made of them when training began.

    features: mean_i 1 / F ||f(x_i) - f_0(x_i)||_2^2, f the F features and f_0 those of a copy of the encoder as
    training starts, in evaluation mode, that sees the same images. Romero et al. (2015), "FitNets: hints for thin deep
    nets", ICLR, equation 3, times 2 / F and without the regressor that widths which differ need.

    outputs: sum_s mean_i KL(p_s^T(h_s0(f_0(x_i))) || p_s^T(h_s(f(x_i)))) over the heads s of the stage before: p_s^T
    are the probabilities of its classes or bins from outputs divided by the temperature T; where a scan may have
    several classes, the mean over them. For quantities and risks it is 1/2 (h_s - h_s0)^2, the divergence of normal
    distributions of variance 1. h_s0 stays as it was, h_s starts from it and trains along. Li, Hoiem (2016), "Learning
    without forgetting", ECCV, where T is 2: its cross-entropy but for a constant.

    temperature: above 0, of "outputs" alone. Raises InputError for others, where the encoder is not pretrained, and
    for "outputs" without heads before that can be taken over.
    """

    needs = ("pretrained", "whole", "moving")

    def __init__(self, kind: Literal["features", "outputs"] = "features", temperature: float = 2.0):
        super().__init__()
        at_least(temperature=(temperature, 1e-3))
        self.kind, self.temperature = kind, temperature
        self.sources: tuple[Target, ...] = ()

    def start(self, beginning: Beginning) -> None:
        """Copy the encoder, and the heads of the stage before."""
        require_pretrained(beginning, "FeatureDistillation")
        self.before = FrozenEncoder(beginning.network)
        if self.kind == "features":
            return
        self.sources = beginning.source_targets
        if not self.sources:
            message, hint = "kind 'outputs' needs heads of the stage before, and there is none", "expected 'features'"
            raise InputError([Problem(WHERE, message, hint)])
        made = [source_head(beginning, of.name, WHERE) for of in self.sources]
        kept = [source_head(beginning, of.name, WHERE).requires_grad_(False) for of in self.sources]
        self.own_heads, self.kept_heads = nn.ModuleList(made), nn.ModuleList(kept)

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar."""
        now, start = step.features, self.before(step.labelled_images)
        if self.kind == "features":
            return (now - start).square().mean()
        pairs = zip(self.sources, self.own_heads, self.kept_heads)
        return sum(self._divergence(of, head(now), kept(start)).mean() for of, head, kept in pairs)

    def _divergence(self, target: Target, now: Tensor, start: Tensor) -> Tensor:
        """Of the outputs of one head, (B, outputs) -> (B,)."""
        if target.kind == "survival" or (target.kind == "regression" and not target.bins):
            return (now - start)[:, 0].square() / 2
        return divergence(target, now / self.temperature, start / self.temperature)
