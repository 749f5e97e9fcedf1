"""Small networks with plain gradients, for the tests of terms that hold on to a network as it was."""

import numpy as np
import torch
from torch import nn

from tlimb.architectures.network import Network
from tlimb.data.bins import Bins
from tlimb.data.targets import Target
from tlimb.objectives.term import Step

DIAGNOSIS = Target("diagnosis", "classification", ("a", "b", "c"))
GRADE = Target("grade", "ordinal", ("none", "mild", "severe"))
FINDINGS = Target("findings", "multilabel", ("atrophy", "lesion"))
AGE = Target("age", "regression", (), 50.0, 10.0)
BINNED = Target("age", "regression", (), 50.0, 10.0, Bins(20.0, 80.0, 15.0, 5.0))


class Small(nn.Module):
    """Two convolutions with batch norm; features are means over space."""

    dims, features, blocks = 2, 4, ("first", "second")

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, images):
        return self.second(self.first(images)).flatten(2).mean(2)


class Flat(nn.Module):
    """One linear layer over the voxels of an image, whose gradients are plain."""

    dims, features, blocks = 2, 3, ("layer",)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3, bias=False)

    def forward(self, images):
        return self.layer(images.flatten(1))


def network_of(encoder: nn.Module, seed: int = 0, **heads: int) -> Network:
    """A network with linear heads and weights that are no extreme ones."""
    network = Network(encoder, {name: nn.Linear(encoder.features, width) for name, width in heads.items()})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.add_(1.0)
    return network


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moved(network: Network) -> Network:
    """The network after its weights have changed."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.add_(0.1 * noise(*parameter.shape, seed=number))
    return network


def step_of(network: Network, images: torch.Tensor, labels=(), **facts) -> Step:
    """A training step in which all images have labels."""
    return Step(network, images, list(labels), labelled=facts.pop("labelled", len(images)), **facts)


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """All tensors as float64 arrays."""
    return {name: of.detach().double().numpy().copy() for name, of in network.state_dict().items()}
