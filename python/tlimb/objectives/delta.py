"""DELTA: keep what the layers make of an image, not what their weights are.

Li, Xiong, Wang, Rao, Liu, Huan (2019), "DELTA: deep learning transfer using feature map with attention for
convolutional networks", ICLR.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from tlimb.errors import InputError, Problem
from tlimb.objectives.attention import channel_attention
from tlimb.objectives.frozen import FrozenEncoder, require_pretrained
from tlimb.objectives.l2sp import squared_norm
from tlimb.objectives.numbers import at_least
from tlimb.objectives.term import Beginning, Step, Term
from tlimb.objectives.watching import channel_axis, chosen_layers, watched


class DELTA(Term):
    r"""alpha Omega' + beta / 2 ||w_notS||_2^2, over scans i, layers j, channels c and positions p:

        Omega' = mean_i sum_j C_j / 2 sum_c a_jc mean_p (FM_jcp(x_i, w) - FM_jcp(x_i, w^0))^2.

    FM_j are the C_j channels that layer j makes of an image, w^0 the weights that the encoder starts from: a copy of it
    in evaluation mode sees the same images. a_j are the weights of a layer's channels, sum_c a_jc = 1: 1 / C_j, or
    `tlimb.objectives.attention` of what each channel is worth for the stage's own targets before training. w_notS are
    kernels and matrices of the new heads.

    The paper's text has the sums over positions and scans; scale, the factor 1/2 and the mean over positions are those
    of the authors' code, which sums over the scans of a batch: its alpha of 0.01 with batches of 64 is 0.64 here. There
    the mean over positions is taken with attention alone. They watch the last convolution of each of four stages
    (``"layers": ["layer1.2.conv3", ...]`` of a ResNet-50).

    Images that a primary term hides parts of are whole for the copy.

    alpha, beta: at least 0. layers: names of blocks or submodules, all blocks where null. attention: "none" or
    "losses". scans: how many training scans the attention is measured on. Raises InputError for numbers out of range,
    names that the encoder does not have, and where it is not pretrained.
    """

    needs = ("pretrained", "whole", "moving")

    def __init__(
        self,
        alpha: float = 0.64,
        beta: float = 0.01,
        layers: list[str] | None = None,
        attention: Literal["none", "losses"] = "none",
        scans: int = 128,
    ):
        super().__init__()
        at_least(alpha=(alpha, 0), beta=(beta, 0), scans=(scans, 1))
        self.alpha, self.beta, self.asked = alpha, beta, layers
        self.attention, self.scans = attention, scans
        self.layers: list[str] = []
        self._made: list[tuple[str, Tensor]] | None = None

    def start(self, beginning: Beginning) -> None:
        """Copy the encoder and weigh its channels."""
        require_pretrained(beginning, "DELTA")
        self.before = FrozenEncoder(beginning.network)
        where = "objective.auxiliary: DELTA"
        channels = chosen_layers(self.before.network, self.asked, beginning.input_shape, where)
        self.layers = list(channels)
        weights = {name: torch.full((count,), 1 / count) for name, count in channels.items()}
        if self.attention == "losses":
            weights = channel_attention(self.before, channels, beginning, self.scans, where)
        for number, name in enumerate(self.layers):
            self.register_buffer(f"attention{number}", weights[name])

    @contextmanager
    def around_pass(self, step: Step) -> Iterator[None]:
        """Within it the step's pass is watched."""
        with watched(step.network.encoder, self.layers) as self._made:
            yield

    def forward(self, step: Step) -> Tensor:
        """The penalty, a scalar. Raises InputError where the pass was made before it could be watched."""
        made, self._made = self._made, None
        if not made:
            raise InputError([Problem("objective.auxiliary: DELTA", "has not seen the pass of the step")])
        with watched(self.before.encoder, self.layers) as kept:
            self.before(step.images if step.whole else step.labelled_images)
        each = [self._layer(name, now, start) for (name, now), (_, start) in zip(made, kept, strict=True)]
        return self.alpha * sum(each) + self.beta / 2 * squared_norm(step.network.heads)

    def _layer(self, name: str, now: Tensor, start: Tensor) -> Tensor:
        """One layer's part of Omega'."""
        squares = (now.float() - start.float()).square().movedim(channel_axis(now, self.before.encoder), 1)
        weights = getattr(self, f"attention{self.layers.index(name)}")
        return len(weights) / 2 * (squares.transpose(0, 1).flatten(1).mean(1) * weights).sum()
