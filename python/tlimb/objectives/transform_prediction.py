"""Transform prediction: how was this image turned, scaled, sheared and moved?"""

import math

import torch
from torch import Tensor, nn

from tlimb.data.augment.affine import RandomAffine
from tlimb.errors import InputError, Problem
from tlimb.objectives.own_pass import kept_statistics
from tlimb.objectives.term import Beginning, Step, Term

WHERE = "objective: TransformPrediction"


class TransformPrediction(Term):
    r"""mean over scans and parameters of (z' - z)^2, z the standardised parameters of a random affine transform t.

    z' = W [f(x), f(t(x))] + b: a linear layer of the term's own sees the encoder's features of the image and of the
    transformed one beside each other, as in Zhang, Qi, Wang, Luo (2019), "AET vs. AED: Unsupervised representation
    learning by auto-encoding transformations rather than data", CVPR, whose loss is the squared difference of the
    parameters too. A parameter is drawn uniformly from -a to a around its rest and z = parameter / (a / sqrt(3)), of
    variance 1, so that the value is 1 for who predicts nothing. There the transforms are of pictures, and larger.

    degrees, scale, shear: largest amounts, as RandomAffine has them: about each axis (slices: in the plane), by which
    each axis' factor is off 1, of each entry of the shear; translation: in voxels, along each axis. What is 0 is
    neither done nor predicted. For volumes these are 12 parameters, for slices 6. As an auxiliary term it
    passes all scans of a step twice, labelled or not, and beside targets leaves batch norm's running statistics alone.
    Raises InputError for values out of range.
    """

    needs = ("moving",)
    on_images = True

    def __init__(self, degrees: float = 20.0, scale: float = 0.15, shear: float = 0.1, translation: float = 4.0):
        super().__init__()
        amounts = {"degrees": degrees, "scale": scale, "shear": shear, "translation": translation}
        problems = [
            Problem(name, f"expected a number of at least 0, found {amount}")
            for name, amount in amounts.items()
            if not 0 <= amount < math.inf
        ]
        if scale > 0.9:
            problems.append(Problem("scale", f"expected at most 0.9, found {scale}"))
        if not any(amounts.values()):
            message = "degrees, scale, shear and translation are all 0, so that nothing is done"
            problems.append(Problem("degrees", message, "expected a number above 0 for one of them"))
        if problems:
            raise InputError(problems)
        self.amounts = {name: amount for name, amount in amounts.items() if amount > 0}
        self.augment = RandomAffine(1.0, degrees, scale, shear, translation)

    def start(self, beginning: Beginning) -> None:
        """Make the linear layer. Raises InputError for series."""
        axes = len(beginning.input_shape) - 1
        if axes not in RandomAffine.spatial:
            raise InputError([Problem(WHERE, f"transforms slices or volumes, and these images have {axes} axes")])
        parameters = self.standardised(self.augment.draw((1, *beginning.input_shape)))
        self.predict = nn.Linear(2 * beginning.network.encoder.features, parameters.shape[1])

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar, over all images of the step."""
        return self.each(step).mean()

    def each(self, step: Step) -> Tensor:
        """The mean squared error of each scan's parameters, (B,)."""
        drawn = self.augment.draw(step.images.shape)
        both = torch.cat([step.images, self.augment.apply(step.images, drawn)])
        with kept_statistics(step):
            features = torch.cat(step.network.passed(both, []).features.chunk(2), dim=1)
        wanted = self.standardised(drawn).to(features.device)
        return (self.predict(features).float() - wanted).square().mean(dim=1)

    def standardised(self, drawn: dict[str, Tensor]) -> Tensor:
        """What was drawn for each image as numbers of mean 0 and variance 1, (B, parameters)."""
        rest = {"scale": 1.0}
        found = [
            (drawn[name] - rest.get(name, 0.0)) / (amount / math.sqrt(3)) for name, amount in self.amounts.items()
        ]
        return torch.cat(found, dim=1)
