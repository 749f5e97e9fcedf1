"""MixUp: convex combinations of images, and labels that remember of what."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tlimb.data.augment.arguments import Arguments
from tlimb.data.augment.augmentation import Augmentation, beside
from tlimb.errors import InputError, Problem


@dataclass(frozen=True)
class Mixed:
    """Labels of mixed images: image i is weight[i] of its own and 1 - weight[i] of its partner.

    labels, partner: a (B,) tensor a target, NaN where missing. weight: (B,).
    """

    labels: list[Tensor]
    partner: list[Tensor]
    weight: Tensor


class MixUp(Augmentation):
    r"""x' = lambda x_i + (1 - lambda) x_j and the loss lambda L(f(x'), y_i) + (1 - lambda) L(f(x'), y_j).

    lambda ~ Beta(alpha, alpha) for each image, which is mixed with the given probability; j is its place in a random
    permutation of the batch. The objective computes the loss from the labels that come out, `Mixed`: for cross-entropy
    that is the loss of the mixed label; for the squared error it differs from it by
    lambda (1 - lambda) (y_i - y_j)^2, which no weight changes, so gradients are the same.

    Zhang et al. (2018), "mixup: Beyond empirical risk minimization", ICLR.
    """

    spatial = (1, 2, 3)

    def __init__(self, probability: float = 1.0, alpha: float = 0.2):
        arguments = Arguments("MixUp")
        super().__init__(arguments.share("probability", probability))
        arguments.require("alpha", alpha > 0, f"expected more than 0, found {alpha}")
        self.alpha = float(alpha)
        arguments.done()

    def __call__(self, images: Tensor, labels):
        """Mixed images and their `Mixed` labels. Raises InputError where the labels are mixed already."""
        if isinstance(labels, Mixed):
            raise InputError([Problem("augment MixUp", "the batch is mixed already; MixUp can stand only once")])
        drawn = self.draw(images.shape)
        partner, weight = drawn["partner"].to(images.device), drawn["weight"].to(images)
        return self.apply(images, drawn), Mixed(labels, [label[partner] for label in labels], weight)

    def draw(self, shape) -> dict[str, Tensor]:
        """partner (B,) places in the batch, weight (B,): lambda, 1 for images that are not mixed."""
        self.check(shape)
        chosen = torch.rand(shape[0]) < self.probability
        weight = torch.distributions.Beta(self.alpha, self.alpha).sample((shape[0],))
        return {"partner": torch.randperm(shape[0]), "weight": torch.where(chosen, weight, 1.0)}

    @torch.no_grad()
    def apply(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Each image mixed with its partner."""
        return torch.lerp(images[drawn["partner"].to(images.device)], images, beside(drawn["weight"], images))
