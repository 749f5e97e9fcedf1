"""The network as training starts from it, kept beside the one that trains."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from tlimb.architectures.network import Network
from tlimb.errors import InputError, Problem
from tlimb.objectives.term import Beginning


class FrozenEncoder(nn.Module):
    """A copy of a network's encoder as it is now, which stays so: in evaluation mode, and without gradients."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = Network(deepcopy(network.encoder), {}).requires_grad_(False)
        self.eval()

    @property
    def encoder(self) -> nn.Module:
        """The copy itself."""
        return self.network.encoder

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Evaluation mode, whatever the mode of the module that it is part of."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features (B, F) of images (B, C, ...)."""
        return self.network.encode(images)


def require_pretrained(beginning: Beginning, term: str) -> None:
    """Raises InputError where there is nothing to keep."""
    if not beginning.pretrained:
        message, hint = "there is no pretrained encoder to stay near", "leave it out where training is from scratch"
        raise InputError([Problem(f"objective.auxiliary: {term}", message, hint)])
