"""Variational autoencoder: the CAE's convolutions, a posterior over few latent numbers, a decoder from those alone."""

from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tlimb.architectures.arguments import require_numbers
from tlimb.architectures.cae import ACTIVATIONS, CAE, TRANSPOSED, start_as_trans_mri
from tlimb.errors import InputError, Problem


class VAE(CAE):
    """Encoder of a variational autoencoder, (B, in_channels, ...) -> the mean of its posterior, (B, latent).

    Kingma, Welling (2014), "Auto-encoding variational Bayes", ICLR. Blocks 1 to 4 are those of CAE; mu and log_variance
    of the posterior q(z | x) = N(mu, diag(exp(log_variance))) are linear layers on the flattened code. Train it with
    Reconstruction and KLDivergence: z is drawn in training, z = mu + exp(log_variance / 2) epsilon, epsilon ~ N(0, I),
    and is mu otherwise. Unlike the CAE's, its decoder sees z alone, not where maxima stood.

    Features are mu, in training too, so a target alone gives log_variance no gradient: there its weight and bias stay
    as they came, though they count among the parameters that train.

    dims: 2 for slices, 3 for volumes. latent: length of z. channels, activation, head_dropout: as CAE's. in_channels,
    input_shape, recipe: decided by the data. Raises InputError for images of less than 24 voxels along an axis.
    """

    reference = "Kingma & Welling 2014, ICLR"
    blocks = (*CAE.blocks, "mean", "log_variance")
    decoder_head = "tlimb.architectures.vae.VAEDecoder"
    default_head = "LinearHead"

    def __init__(
        self,
        dims: Literal[2, 3] = 3,
        latent: int = 128,
        channels: list[int] = (8, 16, 32, 16),
        activation: Literal["elu", "relu"] = "elu",
        head_dropout: float = 0.0,
        in_channels: int = 1,
        input_shape: tuple = (),
        recipe: dict | None = None,
    ):
        require_numbers(counts={"latent": latent})
        super().__init__(dims, channels, activation, "none", head_dropout, in_channels, input_shape, recipe)
        self.mean, self.log_variance = nn.Linear(self.features, latent), nn.Linear(self.features, latent)
        self.features = self.channels = latent

    def levels(self, images: Tensor) -> list[Tensor]:
        """log_variance and mu, each (B, latent, 1, ...)."""
        code = super().levels(images)[-1].flatten(1)
        return [self._as_maps(self.log_variance(code)), self._as_maps(self.mean(code))]

    def maps(self, images: Tensor) -> Tensor:
        """mu as maps of one position, (B, latent, 1, ...)."""
        return self._as_maps(self.mean(super().levels(images)[-1].flatten(1)))

    def _as_maps(self, numbers: Tensor) -> Tensor:
        return numbers.unflatten(1, (-1, *[1] * self.dims))


class VAEDecoder(nn.Module):
    """Levels of a VAE -> images (B, in_channels, ...), the mean of p(x | z).

    A linear layer gives an image of the size of the encoder's code; block 1 is a transposed convolution of it without
    padding; blocks 2 to 4 double their input by the nearest voxel and convolve that, 3 wide.

    output: what the last block ends in; where null "sigmoid" for images between 0 and 1 (a recipe whose intensity is
    minmax or percentile), and "linear" for others.
    """

    takes = "levels"

    def __init__(
        self, encoder: VAE, input_shape: tuple, output: Literal["sigmoid", "elu", "relu", "linear"] | None = None
    ):
        super().__init__()
        widths, activation = encoder.widths[::-1], encoder.activation
        self.sizes = [[size // 2**halvings for size in input_shape[1:]] for halvings in (2, 1, 0)]
        wide = widths[0] * prod(encoder.code_size)
        image = nn.Unflatten(1, (widths[0], *encoder.code_size))
        self.start = nn.Sequential(nn.Linear(encoder.features, wide), ACTIVATIONS[activation](), image)
        last = output or ("sigmoid" if encoder.within_unit else "linear")
        for number, ending in enumerate([activation] * 3 + [last]):
            convolution = TRANSPOSED[encoder.dims](*widths[number : number + 2], 3, padding=1 if number else 0)
            self.add_module(f"block{number + 1}", nn.Sequential(convolution, ACTIVATIONS[ending]()))
        self.apply(start_as_trans_mri)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """The reconstruction, (B, in_channels, ...)."""
        images = self.block1(self.start(self.draw(levels)))
        for number, sizes in enumerate(self.sizes):
            images = self.get_submodule(f"block{number + 2}")(interpolate(images, size=sizes, mode="nearest"))
        return images

    def draw(self, levels: list[Tensor]) -> Tensor:
        """z (B, latent): drawn from the posterior in training, else its mean."""
        log_variance, mean = (level.flatten(1) for level in levels)
        return mean + torch.exp(log_variance / 2) * torch.randn_like(mean) if self.training else mean


class PosteriorHead(nn.Module):
    """Levels of a VAE -> (B, 2 * latent): mu, then log_variance. It has no weights; KLDivergence asks for it.

    Raises InputError for an encoder without a posterior.
    """

    takes = "levels"

    def __init__(self, encoder: nn.Module):
        super().__init__()
        if not isinstance(encoder, VAE):
            message = f"needs an encoder with a posterior, such as VAE; found {type(encoder).__name__}"
            raise InputError([Problem("heads.posterior: PosteriorHead", message)])

    def forward(self, levels: list[Tensor]) -> Tensor:
        """mu and log_variance side by side."""
        log_variance, mean = levels
        return torch.cat([mean.flatten(1), log_variance.flatten(1)], 1)
