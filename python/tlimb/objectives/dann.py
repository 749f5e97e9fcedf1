"""DANN: features from which nobody can tell the domain."""

from torch import Tensor

from tlimb.objectives.domains import domain_loss, nothing, of_one_domain
from tlimb.objectives.reversal import Adversary, require_at_least, reversed_gradient, strength_at
from tlimb.objectives.term import Beginning, Step, Term


class DANN(Term):
    r"""-1/n_s sum_source log(1 - D(R(f_i))) - 1/n_t sum_target log D(R(f_j)).

    f are the encoder's features, D the probability that a discriminator gives to the target domain, R the reversal of
    gradients: dR/df = -lambda_p. So the discriminator learns to tell the domains, and the encoder learns that it can't.
    lambda_p = 2 / (1 + exp(-10 p)) - 1, p the progress of training from 0 to 1. Ganin et al. (2016),
    "Domain-adversarial training of neural networks", JMLR 17.

    The weight in the sum is that of the whole term, of the discriminator's learning as of the reversed gradient.

    width, depth: of the discriminator's hidden layers; two of 1024 are those of the paper's larger networks. schedule:
    False leaves lambda at 1. A batch of one domain alone is worth 0. Raises InputError for sizes out of range.
    """

    needs = ("unlabelled", "moving")
    sees_unlabelled = True
    on_features = True

    def __init__(self, width: int = 1024, depth: int = 2, schedule: bool = True):
        super().__init__()
        require_at_least(width=(width, 1), depth=(depth, 0))
        self.width, self.depth, self.schedule = width, depth, schedule

    def start(self, beginning: Beginning) -> None:
        """Make the discriminator."""
        self.discriminator = Adversary(beginning.network.encoder.features, 1, self.width, self.depth)

    def forward(self, step: Step) -> Tensor:
        """The discriminator's loss, a scalar."""
        if of_one_domain(step):
            return nothing(step)
        features = reversed_gradient(step.passed.features, strength_at(step, self.schedule))
        return domain_loss(self.discriminator(features)[:, 0], step.labelled)
