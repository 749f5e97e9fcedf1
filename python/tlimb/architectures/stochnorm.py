"""Stochastic normalisation: batch norm that now and then trusts what it knows from before."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class StochNorm(_BatchNorm):
    r"""y = gamma [(1 - s) (x - m') / sqrt(v' + eps) + s (x - m) / sqrt(v + eps)] + beta of each channel, in training.

    m and v are the mean and variance of the batch, m' and v' the running ones as they stand before it, gamma and beta
    the layer's scale and shift; s is drawn anew for each channel and pass: P(s = 1) = p. The running statistics move as
    those of batch norm do. p = 1 is batch norm; in evaluation mode it always is. Kou, You, Long, Wang (2020),
    "Stochastic normalization", NeurIPS.

    norm: the batch norm whose place it takes and whose parameters and statistics it shares. p: above 0 to 1.
    """

    def __init__(self, norm: _BatchNorm, p: float):
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.p = p
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.training = norm.training

    def forward(self, values: Tensor) -> Tensor:
        """(B, channels, ...) -> the same shape."""
        if not self.training or self.momentum is None:  # no momentum: statistics are being measured anew, from nothing
            return super().forward(values)
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        known = batch_norm(values, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        own = super().forward(values)
        chosen = (torch.rand(self.num_features) < self.p).to(values.device)
        return torch.where(chosen.view(-1, *[1] * (values.ndim - 2)), own, known)

    def _check_input_dim(self, values: Tensor) -> None:
        """Any number of axes; what the layer in its place took has been seen to fit."""


def stochastic_places(module: nn.Module) -> list[str]:
    """The names of the batch norms in a module that `make_stochastic` can replace: torch's own, with running statistics
    that are an exponential mean. A batch norm of somebody's own class may do more, such as an activation."""
    return [
        name
        for name, of in module.named_modules(remove_duplicate=False)
        if name and type(of) in BATCH_NORMS and of.running_mean is not None and of.momentum is not None
    ]


def make_stochastic(module: nn.Module, p: float, names: Collection[str]) -> dict[str, nn.Module]:
    """Put a StochNorm in the place of each batch norm `names` of a module; what stood there, by its name."""
    before = {name: module.get_submodule(name) for name in names}
    made = {id(norm): StochNorm(norm, p) for norm in before.values()}
    for name, norm in before.items():
        module.set_submodule(name, made[id(norm)])
    return before


def make_ordinary(module: nn.Module, before: dict[str, nn.Module]) -> None:
    """Put back what `make_stochastic` took out, with the statistics of now."""
    for name, norm in before.items():
        now = module.get_submodule(name)
        norm.to(now.running_mean.device).load_state_dict(now.state_dict())
        norm.training = now.training
        module.set_submodule(name, norm)
