"""Every way to show what a network looks at, behind one form: images of one class in, a map for each out."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tlimb.architectures.network import Network
from tlimb.data.targets import Target
from tlimb.explain.attention import attention
from tlimb.explain.grad_cam import grad_cam
from tlimb.explain.integrated_gradients import TOLERANCE, integrated_gradients
from tlimb.explain.occlusion import occlusion, patch_sizes
from tlimb.explain.output import UNITS, explained_output

BATCH = 8
"""Images whose gradients or attention are held together."""


@dataclass(frozen=True)
class Asked:
    """What is to be explained: one output of a network.

    outcome: the number of a class, for kinds that need one. scans: how many are explained in all, of every class.
    """

    network: Network
    target: Target
    outcome: int | None
    scans: int

    @property
    def unit(self) -> str:
        """What the output is counted in."""
        return UNITS.get(self.target.kind, self.target.name)


@dataclass(frozen=True)
class Found:
    """maps: (n, C, ...) on the CPU, one for each image. settings: of the method. about: these images in particular."""

    maps: Tensor
    settings: dict = field(default_factory=dict)
    about: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """explain: images (n, C, ...) -> Found; raises DoesNotApply. signed: whether maps have both signs, for a class and
    for a quantity. unit: of the maps, where it is not the output's."""

    explain: Callable[[Asked, Tensor], Found]
    signed: tuple[bool, bool] = (True, True)
    unit: str = ""


def _occlusion(asked: Asked, images: Tensor) -> Found:
    patch, stride = patch_sizes(tuple(images.shape[1:]), asked.scans)
    output = explained_output(asked.network, asked.target, asked.outcome)
    maps = occlusion(output, images, patch, stride)
    return Found(maps, {"patch": list(patch), "stride": list(stride)})


def _integrated_gradients(asked: Asked, images: Tensor) -> Found:
    shares = integrated_gradients(explained_output(asked.network, asked.target, asked.outcome), images)
    missed = int((shares.error > TOLERANCE).sum())
    about = {"steps": int(shares.steps.max()), "incomplete": missed, "worst": float(shares.error.max())}
    return Found(shares.maps, {"tolerance": TOLERANCE}, about)


def _grad_cam(asked: Asked, images: Tensor) -> Found:
    output = explained_output(asked.network, asked.target, asked.outcome)
    parts = [grad_cam(asked.network, output, part, asked.outcome is not None) for part in images.split(BATCH)]
    return Found(torch.cat([maps for maps, _ in parts]), parts[0][1])


def _attention(asked: Asked, images: Tensor) -> Found:
    parts = [attention(asked.network, asked.target.name, part) for part in images.split(BATCH)]
    settings, about = {"of": parts[0][1]["of"]}, {}
    if "weights" in parts[0][1]:
        weights = torch.cat([said["weights"] for _, said in parts]).mean(0)
        about = {"slices": {"axis": parts[0][1]["axis"], "mm": None, "weights": weights.tolist()}}
    return Found(torch.cat([maps for maps, _ in parts]), settings, about)


METHODS = {
    "occlusion": Method(_occlusion),
    "integrated_gradients": Method(_integrated_gradients),
    "grad_cam": Method(_grad_cam, (False, True), "weighed maps"),
    "attention": Method(_attention, (False, False), "times an even share"),
}
"""By the names that `evaluate.explain` knows."""
