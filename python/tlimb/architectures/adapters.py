"""Small trainable parts beside fixed weights, merged into them in the end.

An adapter changes a weight where it is used, W -> W + D, and not what a layer puts out: the layer then computes, with
any stride, padding, dilation and groups, what the merged layer computes, and the merged weight is an ordinary one. A
step costs as much as one of full tuning; what is saved is the memory of the optimiser and the freedom to overfit.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tlimb import registry
from tlimb.errors import InputError, Problem
from tlimb.seeds import seed_for

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Adapter(Protocol):
    """A way to adapt weights.

    layers: names of the blocks or submodules within which weights are adapted, all where None. norms: whether the
    normalisations of the encoder train with it.
    """

    layers: list[str] | None
    norms: bool

    def beside(self, module: nn.Module, name: str, generator: torch.Generator) -> nn.Module | None:
        """What turns the module's weight `name` into the one that is used; None for a weight that is left alone."""


class LoRA:
    r"""W + (alpha / rank) B A, with A (rank, n) and B (outputs, rank) trained in place of W (outputs, n).

    Hu et al. (2022), "LoRA: low-rank adaptation of large language models", ICLR. For linear layers, the projections of
    attention among them, and 1D, 2D and 3D convolutions: there n runs over the inputs of a group and the kernel's
    places, so that A is a convolution of the layer's own shape to `rank` channels and B a pointwise one after it. (The
    text has linear layers alone; loralib's convolution, for 2D alone, is of another shape.) As in loralib A starts
    from the uniform distribution over +-1 / sqrt(n) and B from 0, hence the network from what it was. Normalisations
    do not train, and there is no dropout before A.

    rank: at least 1. alpha: the rank where None. layers: blocks or submodules to adapt, all where None.
    """

    norms = False

    def __init__(self, rank: int = 4, alpha: float | None = None, layers: list[str] | None = None):
        if rank < 1:
            raise InputError([Problem("tuning.adapter.init_args.rank", f"expected at least 1, found {rank}")])
        self.rank, self.scale, self.layers = rank, (rank if alpha is None else alpha) / rank, layers

    def beside(self, module: nn.Module, name: str, generator: torch.Generator) -> nn.Module | None:
        """A and B beside the weight of a linear layer, of attention or of a convolution."""
        kinds = {"weight": (nn.Linear, *CONVOLUTIONS), "in_proj_weight": (nn.MultiheadAttention,)}
        if not isinstance(module, kinds.get(name, ())):
            return None
        return LowRank(getattr(module, name), self.rank, self.scale, generator)


class LowRank(nn.Module):
    """W -> W + scale B A, in the shape of W."""

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator):
        super().__init__()
        outputs, inputs = weight.shape[0], weight[0].numel()
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, inputs, dtype=weight.dtype))
        self.b = nn.Parameter(torch.zeros(outputs, rank, dtype=weight.dtype))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5), generator=generator)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that is used."""
        return torch.addmm(weight.flatten(1), self.b, self.a, alpha=self.scale).view(weight.shape)


class ParallelAdapter:
    r"""y = W * x + D * x, D a pointwise convolution beside a wider one, with its stride and groups.

    Rebuffi, Bilen, Vedaldi (2018), "Efficient parametrization of multi-domain deep neural networks", CVPR. D is added
    to the centre of W; where the padding is not that of an output of the same size, D looks where the centre looks.
    As in the authors' code the normalisations train too, their statistics move, and D starts from a normal
    distribution of variance 2 / outputs (for one group).

    start: "zero" lets the network start from what it was. layers: blocks or submodules to adapt, all where None.
    Convolutions of one or an even number of places along each axis have no room or no centre and stay as they are.
    """

    norms = True

    def __init__(self, start: Literal["normal", "zero"] = "normal", layers: list[str] | None = None):
        self.start, self.layers = start, layers

    def beside(self, module: nn.Module, name: str, generator: torch.Generator) -> nn.Module | None:
        """D beside the kernel of a convolution with a centre."""
        if name != "weight" or not isinstance(module, CONVOLUTIONS):
            return None
        kernel = module.kernel_size
        if max(kernel) == 1 or any(size % 2 == 0 for size in kernel):
            return None
        pointwise = torch.zeros(module.weight.shape[:2], dtype=module.weight.dtype)
        if self.start == "normal":
            pointwise.normal_(0, math.sqrt(2 / module.out_channels), generator=generator)
        return Centre(pointwise, kernel)


class Centre(nn.Module):
    """W -> W with a pointwise kernel added to its centre."""

    def __init__(self, pointwise: Tensor, kernel: Sequence[int]):
        super().__init__()
        self.pointwise = nn.Parameter(pointwise)
        self.around = [size // 2 for size in reversed(kernel) for _ in range(2)]

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that is used."""
        pointwise = self.pointwise.view(*self.pointwise.shape, *(1 for _ in weight.shape[2:]))
        return weight + nn.functional.pad(pointwise, self.around)


def build_adapter(spec: dict, trusted=()) -> Adapter:
    """The adapter that a sweep names. Raises InputError for one that does not exist."""
    return registry.load("adapter", spec["class_path"], trusted)(**spec["init_args"])


def attach(adapter: Adapter, encoder: nn.Module, seed: int) -> list[tuple[nn.Module, str]]:
    """Set the adapter beside every weight that it takes and fix those weights; the layers and names of these.

    The numbers that it starts from depend on the seed and the weight's name alone.
    """
    found = []
    for layer, module in encoder.named_modules():
        if adapter.layers is None or any(layer == part or layer.startswith(f"{part}.") for part in adapter.layers):
            found += [(layer, module, name) for name, _ in module.named_parameters(recurse=False)]
    adapted = []
    for layer, module, name in found:
        generator = torch.Generator().manual_seed(seed_for(seed, "init", "adapter", layer, name))
        beside = adapter.beside(module, name, generator)
        if beside is not None:
            getattr(module, name).requires_grad_(False)
            parametrize.register_parametrization(module, name, beside)
            adapted.append((module, name))
    return adapted


def merge(adapted: Iterable[tuple[nn.Module, str]]) -> None:
    """Put the weights that are used in the place of weights and adapters; the layers are ordinary ones again.

    adapted: what `attach` gave.
    """
    for module, name in adapted:
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
