"""Integrated gradients: an output's difference from that of an empty image, shared out over the voxels."""

from dataclasses import dataclass

import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from tlimb.explain.output import Output, gradient

STEPS = (32, 128)
"""Points of the integral: at first, and where these do not do."""

TOLERANCE = 0.05
"""How far the shares may sum to something else than the difference, as a part of it."""

BATCH = 8
"""Points that pass together."""


@dataclass(frozen=True)
class Shares:
    """Maps (B, C, ...) on the CPU; error: (B,), how far each sums to something else than the difference, as a part of
    it; steps: (B,), points of the integral."""

    maps: Tensor
    error: Tensor
    steps: Tensor


def integrated_gradients(output: Output, images: Tensor) -> Shares:
    r"""x_i times the integral over a from 0 to 1 of d output(a x) / d x_i, by Gauss and Legendre's points.

    Sundararajan, Taly, Yan (2017), "Axiomatic attribution for deep networks", ICML; the empty image is zero, what
    stores hold outside of the brain. Completeness: the shares of an image sum to output(x) - output(0). Where they miss
    it by more than TOLERANCE there are more points; `error` says by how much they still miss it.

    images: (B, C, ...). Raises DoesNotApply for an output without gradients.
    """
    gradient(output, images[:1])
    explainer = IntegratedGradients(output)
    maps, errors, steps = [], [], []
    for image in images.split(1):
        with torch.inference_mode():
            difference = float(output(image) - output(torch.zeros_like(image)))
        for points in STEPS:
            with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
                shares = explainer.attribute(image.clone(), n_steps=points, internal_batch_size=BATCH).detach()
            error = abs(float(shares.double().sum()) - difference) / max(abs(difference), 1e-6)
            if error <= TOLERANCE:
                break
        maps.append(shares.float().cpu())
        errors.append(error)
        steps.append(points)
    return Shares(torch.cat(maps), torch.tensor(errors), torch.tensor(steps))
