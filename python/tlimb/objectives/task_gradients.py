"""Gradients of the loss of each target, for ways to combine losses that look at them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def task_gradients(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of each loss for all parameters in a row, (losses, numbers), in 32 bits; 0 where a loss does not
    depend on a parameter. The losses can still be differentiated afterwards."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        each = [torch.zeros_like(of) if one is None else one for one, of in zip(found, parameters)]
        rows.append(torch.cat([one.flatten().float() for one in each]))
    return torch.stack(rows)


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that have a gradient now."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
