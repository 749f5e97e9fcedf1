"""CDAN: features together with predictions from which nobody can tell the domain."""

import math

import torch
from torch import Tensor, nn

from tlimb.objectives.distances import full_precision
from tlimb.objectives.domains import classifications, domain_loss, nothing, of_one_domain
from tlimb.objectives.reversal import Adversary, require_at_least, reversed_gradient, strength_at
from tlimb.objectives.term import Beginning, Step, Term

WIDEST = 4096
"""The longest product of features and predictions that is given to a discriminator as it is."""

RANDOMISED = 1024
"""How long a random projection of longer ones is."""


class CDAN(Term):
    r"""-1/n_s sum_source w(g_i) log(1 - D(T(R(f_i), g_i))) - 1/n_t sum_target w(g_j) log D(T(R(f_j), g_j)).

    f are the encoder's features (of length F), g the probabilities of the K classes of a target, R the reversal of
    gradients, dR/df = -lambda_p, and D the probability that a discriminator gives to the target domain. The map T is
    the outer product f (x) g where F K <= 4096; where it is longer, 1 / sqrt(d) (P f) * (Q g), elementwise, with d =
    1024 and P, Q random matrices of independent standard normal numbers, drawn once. With `entropy`
    w(g) = 1 + exp(-H(g)), H(g) = -sum_k g_k log g_k, so that scans that are easy to classify count up to twice
    (CDAN+E), else 1. Long, Cao, Wang, Jordan (2018), "Conditional adversarial domain adaptation", NeurIPS; lambda_p as
    in `DANN`.

    As in the authors' code there is no gradient through g in T; here there is none through w either.

    Of several targets with classes it is the mean, each with a discriminator of its own. width, depth: of their hidden
    layers. schedule: False leaves lambda at 1. A batch of one domain alone is worth 0. Raises InputError for sizes out
    of range and, in `start`, where no target is of the kind classification: a quantity has no probabilities.
    """

    needs = ("unlabelled", "moving")
    kinds = ("classification",)
    sees_unlabelled = True
    on_features = True

    def __init__(self, entropy: bool = True, width: int = 1024, depth: int = 2, schedule: bool = True):
        super().__init__()
        require_at_least(width=(width, 1), depth=(depth, 0))
        self.entropy, self.width, self.depth, self.schedule = entropy, width, depth, schedule

    def start(self, beginning: Beginning) -> None:
        """Make a map and a discriminator for each target with classes. Raises InputError where there is none."""
        features = beginning.network.encoder.features
        found = classifications(beginning.targets, "CDAN")
        self.targets = [target.name for target in found]
        self.maps = nn.ModuleList(Multilinear(features, target.outputs) for target in found)
        self.discriminators = nn.ModuleList(Adversary(of.length, 1, self.width, self.depth) for of in self.maps)

    def forward(self, step: Step) -> Tensor:
        """The discriminators' mean loss, a scalar."""
        if of_one_domain(step):
            return nothing(step)
        features = reversed_gradient(step.passed.features.float(), strength_at(step, self.schedule))
        losses = []
        for target, joined, discriminator in zip(self.targets, self.maps, self.discriminators):
            shares = step.passed.outputs[target].detach().float().softmax(1)
            logits = discriminator(joined(features, shares))[:, 0]
            losses.append(domain_loss(logits, step.labelled, certainty(shares) if self.entropy else None))
        return sum(losses) / len(losses)


class Multilinear(nn.Module):
    """T(f, g) of features (B, F) and probabilities (B, K): (B, length)."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.length = features * classes
        if self.length > WIDEST:
            self.length = RANDOMISED
            self.register_buffer("of_features", torch.randn(features, RANDOMISED))
            self.register_buffer("of_shares", torch.randn(classes, RANDOMISED))

    def forward(self, features: Tensor, shares: Tensor) -> Tensor:
        """The outer product, or its random projection."""
        if not hasattr(self, "of_features"):
            return (features[:, :, None] * shares[:, None]).flatten(1)
        with full_precision(features):
            return (features @ self.of_features) * (shares @ self.of_shares) / math.sqrt(self.length)


def certainty(shares: Tensor) -> Tensor:
    """1 + exp(-H), H the entropy in nats of each row of probabilities (B, K): (B,), above 1 and at most 2."""
    return 1 + (-torch.special.entr(shares).sum(1)).exp()
