"""Rotation prediction: by which quarter turns was this image turned?"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tlimb.errors import InputError, Problem
from tlimb.objectives.own_pass import kept_statistics
from tlimb.objectives.term import Beginning, Step, Term

TURNS = {
    2: [(0, (0, 1)), (1, (0, 1)), (2, (0, 1)), (3, (0, 1))],
    3: [(0, (0, 1)), *((quarters, plane) for plane in ((0, 1), (1, 2), (0, 2)) for quarters in (1, 2, 3))],
}
"""Number of axes of space -> the classes: how many quarter turns, from which axis to which; the first one is none."""

LEAST = 0.5
"""The least share of the longest axis that the shortest one may be, since the rest of the image is not shown."""


class RotationPrediction(Term):
    r"""- mean over scans of log softmax(W f(g_k(x)) + b)_k, k drawn for each scan with equal chances.

    f are the encoder's features, g_k the rotations, W and b a linear layer of the term's own. Slices are turned by 0,
    90, 180 or 270 degrees, 4 classes: Gidaris, Singh, Komodakis (2018), "Unsupervised representation learning by
    predicting image rotations", ICLR. Volumes are turned by 90, 180 or 270 degrees about one of the three axes, or not
    at all, 10 classes: Taleb et al. (2020), "3D self-supervised methods for medical imaging", NeurIPS. A class is drawn
    for each scan, as there; the code of Gidaris et al. shows all four in each step, which takes four times as long.

    Beside a supervised loss it is S4L-rotation of Zhai et al. (2019), "S4L: Self-supervised semi-supervised learning",
    ICCV, on all scans that a step has, labelled or not; the supervised loss sees them as they are, and
    batch norm's running statistics are those of its pass.

    What is turned is the square or cube at the centre, as wide as the shortest axis; around it there are zeros, for
    whatever class, so that an image keeps its shape and its frame tells nothing.
    """

    needs = ("moving",)
    on_images = True

    def __init__(self):
        super().__init__()

    def start(self, beginning: Beginning) -> None:
        """Make the linear layer. Raises InputError for series and for images of which the centre is not enough."""
        size = beginning.input_shape[1:]
        where = "objective: RotationPrediction"
        if len(size) not in TURNS:
            raise InputError([Problem(where, f"turns slices or volumes, and these images have {len(size)} axes")])
        if min(size) < LEAST * max(size):
            found = "x".join(map(str, size))
            message = f"turns what lies within {min(size)} voxels of each axis, too little of {found}"
            raise InputError([Problem(where, message, "crop the images, so that their sides are more alike")])
        self.classify = nn.Linear(beginning.network.encoder.features, len(TURNS[len(size)]))

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar, over all images of the step."""
        return self.each(step).mean()

    def each(self, step: Step) -> Tensor:
        """The cross-entropy of each scan, (B,)."""
        classes = torch.randint(self.classify.out_features, (len(step.images),))
        with kept_statistics(step):
            features = step.network.passed(turned(step.images, classes), []).features
        return cross_entropy(self.classify(features).float(), classes.to(features.device), reduction="none")


def turned(images: Tensor, classes: Tensor) -> Tensor:
    """Images (B, C, ...) with the square or cube at their centre turned, by its number in TURNS, and 0 around it.

    classes: (B,), on the CPU.
    """
    size = images.shape[2:]
    centre = tuple(slice((length - min(size)) // 2, (length - min(size)) // 2 + min(size)) for length in size)
    shown, made = images[(..., *centre)], torch.zeros_like(images)
    for number, (quarters, (first, second)) in enumerate(TURNS[len(size)]):
        chosen = (classes == number).nonzero()[:, 0].to(images.device)
        made[(chosen, slice(None), *centre)] = shown[chosen].rot90(quarters, (first + 2, second + 2))
    return made
