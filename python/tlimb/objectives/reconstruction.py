"""Reconstruction: the images themselves are what is predicted."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from tlimb.errors import InputError, Problem
from tlimb.objectives.own_pass import kept_statistics
from tlimb.objectives.term import Step, Term


class Reconstruction(Term):
    r"""mean over scans and voxels of (x' - x)^2, or of |x' - x|; x' is the decoder's image of x.

    As a primary term it learns without labels. As an auxiliary term it is taken over all scans of a step, labelled or
    not; beside the cross-entropy it is trans-MRI's mixed mode alpha MSE + (1 - alpha) CE, with alpha as its weight and
    1 - alpha as the `primary_weight` of the objective.

    The decoder is the head "reconstruction": a Decoder, unless the stage names another one under `heads`.

    masked: share of cubes of `patch` voxels that are set to 0 before the encoder, drawn anew for each scan and epoch in
    training, and alike in every epoch otherwise; the mean is then over the voxels in them alone: Xie et al. (2022),
    "SimMIM: A simple framework for masked image modeling", CVPR (there 0.6, patches of 32 pixels, l1, and a learnt
    value in place of 0). As an auxiliary term it then passes images of its own, since the primary term sees them whole,
    and beside targets leaves batch norm's running statistics alone.
    """

    needs = ("moving",)
    on_images = True
    sees_unlabelled = True
    head = "reconstruction"
    heads = {"reconstruction": {"class_path": "Decoder", "init_args": {}}}

    def __init__(self, loss: Literal["mse", "l1"] = "mse", masked: float = 0.0, patch: int = 8):
        super().__init__()
        problems = []
        if not 0 <= masked < 1:
            problems.append(Problem("masked", f"expected a share from 0 to below 1, found {masked}"))
        if patch < 1:
            problems.append(Problem("patch", f"expected at least 1, found {patch}"))
        if problems:
            raise InputError(problems)
        self.loss, self.masked, self.patch = loss, masked, patch
        self.own_pass = masked > 0
        self.sees_unlabelled = masked == 0  # its own pass takes them where it masks
        self.mask: Tensor | None = None

    def seen(self, images: Tensor) -> Tensor:
        """The images (B, C, ...) as the network sees them: with holes, which are remembered for `each`."""
        if not self.masked:
            return images
        self.mask = draw_mask(images, self.masked, self.patch)
        return images.masked_fill(self.mask, 0.0)

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar, over all images that pass."""
        return self.each(step).mean()

    def each(self, step: Step) -> Tensor:
        """The mean error of each scan, (B,), over all of its voxels or those that were hidden."""
        if self.masked and step.seen != self.seen:
            images = step.images
            with kept_statistics(step):
                made = step.network.passed(self.seen(images), [self.head]).outputs[self.head]
        else:
            images = step.images if step.whole else step.labelled_images
            made = step.passed.outputs[self.head]
        errors = {"mse": mse_loss, "l1": l1_loss}[self.loss](made.float(), images.float(), reduction="none").flatten(1)
        if not self.masked:
            return errors.mean(dim=1)
        hidden = self.mask.expand_as(images).flatten(1)
        return (errors * hidden).sum(dim=1) / hidden.sum(dim=1)


def draw_mask(images: Tensor, share: float, patch: int) -> Tensor:
    """True in randomly drawn cubes, (B, 1, ...): of each image the same number of cubes, `share` of them rounded, at
    least one. Cubes at the end of an axis may be smaller. Drawn by torch's generator of the CPU."""
    grid = [-(-size // patch) for size in images.shape[2:]]
    ranks = torch.rand(len(images), *grid).flatten(1).argsort(1).argsort(1)
    mask = (ranks < max(1, round(share * ranks.shape[1]))).unflatten(1, (1, *grid))
    for axis, size in enumerate(images.shape[2:]):
        mask = mask.repeat_interleave(patch, axis + 2).narrow(axis + 2, 0, size)
    return mask.to(images.device)
