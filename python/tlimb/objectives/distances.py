"""Distances between the rows of matrices, in full precision."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which matrix products keep float32 under automatic mixed precision, which rounds their inputs."""
    return torch.autocast(x.device.type, enabled=False)


def squared_distances(x: Tensor) -> Tensor:
    """||x_i - x_j||^2 of all pairs of rows of x (n, d), float: (n, n), exactly 0 on the diagonal."""
    x = x - x.mean(0)  # distances stay, and little is lost where the rows lie far from 0
    squares = x.square().sum(1)
    distances = (squares[:, None] + squares[None] - 2 * x @ x.T).clamp(min=0)
    return distances * (1 - torch.eye(len(x), device=x.device, dtype=x.dtype))


def distances(x: Tensor) -> Tensor:
    """||x_i - x_j|| of all pairs of rows of x (n, d), float: (n, n); equal rows have no gradient."""
    squared = squared_distances(x)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)
