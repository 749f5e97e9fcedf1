"""MDD: features on which no second classifier agrees with the first in the source and differs in the target."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tlimb.objectives.domains import classifications, nothing, of_one_domain
from tlimb.objectives.reversal import Adversary, require_at_least, reversed_gradient, strength_at
from tlimb.objectives.term import Beginning, Step, Term


class MDD(Term):
    r"""gamma 1/n_s sum_source -log p'_h(i)(R(f_i)) + 1/n_t sum_target -log(1 - p'_h(j)(R(f_j))).

    f are the encoder's features, h(i) the class that the target's head gives scan i (without gradient), p' the
    probabilities of a second, auxiliary classifier and R the reversal of gradients, dR/df = -strength lambda_p. The
    sum is minus the margin disparity discrepancy of the two domains, which the auxiliary classifier makes large: it
    agrees with the head in the source and differs from it in the target. The encoder makes it small. gamma = exp(rho),
    rho the margin. Zhang, Liu, Long, Jordan (2019), "Bridging theory and algorithm for domain adaptation", ICML;
    lambda_p as in `DANN`, in place of their code's schedule of 1000 steps.

    The theory wants p' of the same form as the head; theirs both have one hidden layer of 1024, which is the default
    here: "heads": {"<target>": {"class_path": "MLPHead", "init_args": {"hidden": 1024}}} gives the head the same. Of
    several targets with classes it is the mean, each with an auxiliary classifier of its own.

    gamma: above 0; theirs is 4, or 2. strength: of the reversed gradient, at least 0. schedule: False leaves lambda at
    1. A batch of one domain alone is worth 0. Raises InputError for numbers out of range and, in `start`, where no
    target is of the kind classification.
    """

    needs = ("unlabelled", "moving")
    kinds = ("classification",)
    sees_unlabelled = True
    on_features = True

    def __init__(
        self, gamma: float = 4.0, strength: float = 0.1, width: int = 1024, depth: int = 1, schedule: bool = True
    ):
        super().__init__()
        require_at_least(gamma=(gamma, 1e-6), strength=(strength, 0), width=(width, 1), depth=(depth, 0))
        self.gamma, self.strength = gamma, strength
        self.width, self.depth, self.schedule = width, depth, schedule

    def start(self, beginning: Beginning) -> None:
        """Make an auxiliary classifier for each target with classes. Raises InputError where there is none."""
        features = beginning.network.encoder.features
        found = classifications(beginning.targets, "MDD")
        self.targets = [target.name for target in found]
        self.classifiers = nn.ModuleList(Adversary(features, of.outputs, self.width, self.depth) for of in found)

    def forward(self, step: Step) -> Tensor:
        """Minus the mean discrepancy, a scalar."""
        if of_one_domain(step):
            return nothing(step)
        strength = self.strength * strength_at(step, self.schedule)
        features, n = reversed_gradient(step.passed.features, strength), step.labelled
        losses = []
        for target, classifier in zip(self.targets, self.classifiers):
            logits, given = classifier(features), step.passed.outputs[target].detach().argmax(1)
            source = cross_entropy(logits[:n], given[:n])
            losses.append(self.gamma * source - log_of_others(logits[n:], given[n:]).mean())
        return sum(losses) / len(losses)


def log_of_others(logits: Tensor, classes: Tensor) -> Tensor:
    """log(1 - p_c) of each row of logits (B, K), c its class (B,): (B,); exact where p_c is all but 1."""
    own = torch.arange(logits.shape[1], device=logits.device) == classes[:, None]
    return logits.masked_fill(own, -torch.inf).logsumexp(1) - logits.logsumexp(1)
