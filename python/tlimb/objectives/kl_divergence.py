"""The divergence of a variational autoencoder's posterior from its prior."""

from torch import Tensor

from tlimb.objectives.term import Step, Term


class KLDivergence(Term):
    r"""2 / D * mean over scans of KL(N(mu, diag(sigma^2)) || N(0, I)), D voxels (times channels) an image.

    KL = 1/2 sum_j (mu_j^2 + sigma_j^2 - log sigma_j^2 - 1): Kingma, Welling (2014), "Auto-encoding variational Bayes",
    ICLR, appendix B. Reconstruction is a mean over voxels of squared errors, 2 / D times -log p(x | z) of a normal
    distribution of variance 1 but for a constant. With weight 1 their sum is therefore 2 / D times the negative
    variational bound of that paper; another weight is beta of Higgins et al. (2017), "beta-VAE", ICLR, or the variance
    of that distribution. Beside Reconstruction by l1, the bound of a Laplace distribution of scale 1 has weight 1/2.
    """

    needs = ("moving",)
    sees_unlabelled = True
    heads = {"posterior": {"class_path": "PosteriorHead", "init_args": {}}}

    def __init__(self):
        super().__init__()

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar, over all images that pass."""
        mean, log_variance = step.passed.outputs["posterior"].float().chunk(2, dim=1)
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1) / 2
        return 2 / step.images[0].numel() * divergence.mean()
