"""Gradients of the loss of each target, for ways to combine losses that look at them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def task_gradients(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> list[list[Tensor]]:
    """The gradient of each loss for each parameter; 0 where a loss does not depend on one. The losses can still be
    differentiated afterwards."""
    each = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses]
    return [[torch.zeros_like(of) if one is None else one for one, of in zip(row, parameters)] for row in each]


def inner_products(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """g_t . g_u of all pairs of gradients, each a list of tensors, (T, T) in 64 bits on the CPU."""
    rows = [[_inner_product(one, other) for other in gradients[: place + 1]] for place, one in enumerate(gradients)]
    full = [[rows[max(i, j)][min(i, j)] for j in range(len(rows))] for i in range(len(rows))]
    return torch.stack([torch.stack(row) for row in full]).double().cpu()


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that have a gradient now."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _inner_product(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    return torch.stack([(left.float() * right.float()).sum() for left, right in zip(one, other)]).sum()
