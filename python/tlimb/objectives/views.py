"""Views: versions of one image that a network is to see as the same, made by augmentation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tlimb import registry
from tlimb.errors import InputError, Problem
from tlimb.objectives.own_pass import kept_statistics
from tlimb.objectives.term import Beginning, Step

BRAIN = (
    {"class_path": "RandomFlip", "init_args": {"probability": 0.5, "axes": [0]}},
    {"class_path": "RandomAffine", "init_args": {"probability": 0.5, "degrees": 10.0, "scale": 0.1}},
    {"class_path": "RandomBiasField", "init_args": {"probability": 0.5}},
    {"class_path": "RandomGamma", "init_args": {"probability": 0.5}},
    {"class_path": "RandomBlur", "init_args": {"probability": 0.5, "sigma": [0.1, 1.0]}},
    {"class_path": "RandomNoise", "init_args": {"probability": 0.5, "sd": [0.1, 1.0]}},
    {"class_path": "RandomCutout", "init_args": {"probability": 0.5, "size": [0.25, 0.25]}},
)
"""The usual views of slices and volumes.

Flip, blur, noise and cutout, each with probability 0.5 and of this strength on z-scored scans, are those of Dufumier et
al. (2021), "Contrastive learning with continuous proxy meta-data for 3D MRI classification", MICCAI, in the authors'
code. Its random crop of 3/4 of each side, scaled up again, is a mild affine transform here, which keeps the brain
whole; its flip about any axis is one of left and right (front and back in sagittal slices: leave it out there). Bias
field and gamma, which differ between scanners as colours do between photographs, are added at their usual strength.
"""

SERIES = (
    {"class_path": "RandomNoise", "init_args": {"probability": 0.8, "sd": [0.1, 0.5]}},
    {"class_path": "RandomCutout", "init_args": {"probability": 0.8, "size": [0.1, 0.3]}},
)
"""The usual views of time series: jitter, and a stretch of time set to 0. Yue et al. (2022), "TS2Vec: Towards universal
representation of time series", AAAI, masks likewise; Eldele et al. (2021), "Time-series representation learning via
temporal and contextual contrasting", IJCAI, jitters."""

USUAL = {1: SERIES, 2: BRAIN, 3: BRAIN}


class Views:
    """Called with images (B, C, ...), it gives a view of each, on their device; never the same twice.

    What is drawn follows from torch's generator of the CPU.
    """

    def __init__(self, steps: Sequence):
        self.steps = list(steps)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """A view of each image, (B, C, ...)."""
        for step in self.steps:
            images, _ = step(images, None)
        return images


def build_views(views: list[dict] | None, dims: int, trusted=()) -> Views:
    """The augmentations that make a view, in this order.

    views: {"class_path", "init_args"} of each; null for the usual ones, an empty list for the image itself. dims: axes
    of space (1 for time series). trusted: modules beyond the usual ones whose classes may be used. Raises InputError
    with all that is wrong, such as an augmentation that does not work for images of so many axes.
    """
    steps, problems = [], []
    for number, spec in enumerate(USUAL[dims] if views is None else views):
        try:
            steps.append(_built(spec, dims, f"views[{number}]", trusted))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return Views(steps)


def views_of(views: list[dict] | None, beginning: Beginning) -> Views:
    """The views of the images that training is about to see. Raises InputError as `build_views` does."""
    return build_views(views, len(beginning.input_shape) - 1, beginning.trusted)


def two_views(step: Step, view: Views, head: str, together: bool = False) -> tuple[Tensor, Tensor]:
    """What a head makes of two views of all images of a batch, (B, width) each.

    together: both in one pass, so that batch norm takes its statistics over both; else one pass each. Beside targets
    its running statistics do not move. Raises InputError for a batch of one scan, which has no other to be told from.
    """
    require_company(step)
    first, second = view(step.images), view(step.images)
    with kept_statistics(step):
        if together:
            outputs = step.network.passed(torch.cat([first, second]), names=[head]).outputs[head]
            return outputs[: len(first)], outputs[len(first) :]
        return tuple(step.network.passed(images, names=[head]).outputs[head] for images in (first, second))


def require_company(step: Step) -> None:
    """Raises InputError for a batch of one scan."""
    if len(step.images) < 2:
        message = "a batch of one scan has nothing to compare it with"
        hint = "expected 2 or more scans in a batch, on each device, and in validation"
        raise InputError([Problem("batch_size", message, hint)])


def _built(spec: dict, dims: int, where: str, trusted):
    unknown = sorted(set(spec) - {"class_path", "init_args"})
    if unknown or "class_path" not in spec:
        message = f"expected class_path and init_args, found {', '.join(sorted(spec)) or 'nothing'}"
        raise InputError([Problem(where, message)])
    arguments = spec.get("init_args") or {}
    problems = registry.check("augment", spec["class_path"], arguments, where, trusted)
    if problems:
        raise InputError(problems)
    if registry.locate("augment", spec["class_path"]) == registry.SHORT_NAMES["augment"]["MixUp"]:
        message = "MixUp makes one image of two, and a view is of one image"
        raise InputError([Problem(f"{where}.class_path", message, "leave it out")])
    made = registry.load("augment", spec["class_path"], trusted)(**arguments)
    if hasattr(made, "check"):
        made.check((1, 1, *[1] * dims))
    return made
