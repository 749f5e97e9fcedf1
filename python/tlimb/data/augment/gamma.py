"""Random contrast."""

from torch import Tensor

from tlimb.data.augment.arguments import Arguments
from tlimb.data.augment.augmentation import Augmentation, beside, uniform


class RandomGamma(Augmentation):
    r"""sign(x) \|x\|^gamma with gamma = exp(g), g uniform in `log_gamma`; one number stands for minus to plus itself.

    In z-scored scans the mean (0) and what lies one standard deviation from it stay where they are, and so does what is
    outside of the brain mask (0); above 1, gamma draws darkest and brightest out, below 1 it draws them in. In scans
    from 0 to 1 it is the usual gamma.
    """

    spatial = (1, 2, 3)

    def __init__(self, probability: float = 0.5, log_gamma: float | list[float] = 0.3):
        arguments = Arguments("RandomGamma")
        super().__init__(arguments.share("probability", probability))
        self.log_gamma = arguments.deviations("log_gamma", log_gamma)
        arguments.done()

    def parameters(self, shape) -> dict[str, Tensor]:
        """log_gamma: (B,)."""
        return {"log_gamma": uniform(self.log_gamma, shape[0])}

    def change(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Each image is raised to its own power."""
        return images.abs().pow_(beside(drawn["log_gamma"].exp(), images)).copysign_(images)
