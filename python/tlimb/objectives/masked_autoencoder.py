"""Masked autoencoding: what a vision transformer is not shown is predicted from what it is."""

from math import prod

import torch
from monai.networks.blocks.transformerblock import TransformerBlock
from torch import Tensor, nn
from torch.nn.functional import pad

from tlimb.architectures.position import sinusoids
from tlimb.errors import InputError, Problem
from tlimb.objectives.own_pass import kept_statistics
from tlimb.objectives.term import Beginning, Step, Term

WHERE = "objective: MaskedAutoencoder"


class MaskedAutoencoder(Term):
    r"""mean over scans and their hidden patches M of 1 / D ||y_i - x_i||^2, D voxels (times channels) a patch.

    Of the patches of each image a share `masked`, drawn anew in each step, is hidden. The encoder is given the others
    alone; a decoder, which is the term's own, is given their tokens, a learnt token at the place of each hidden patch
    and fixed positions, and predicts y_i. x_i are the voxels of patch i, with `normalise` (x_i - mean(x_i)) /
    sqrt(var(x_i) + 1e-6), the variance divided by D - 1 as in the authors' code.

    He, Chen, Xie, Li, Dollar, Girshick (2022), "Masked autoencoders are scalable vision learners", CVPR; in 3D as it
    stands there with cubes for squares: Zhou et al. (2023), "Self pre-training with masked autoencoders for medical
    image classification and segmentation", ISBI. Where an axis is no multiple of the patch the encoder puts zeros
    after its end, which are predicted like voxels.

    It needs an encoder that can be given some patches alone: ViT; for a convolutional one there is Reconstruction with
    `masked`. One of your own needs `visible` as ViT has it, `channels`, the `grid` of patches, and `padding`, what is
    put around images before they are cut. As an auxiliary term it passes all scans of a step, labelled or not.

    masked: above 0 and below 1, rounded to a number of patches, of which at least one is hidden and one shown. width,
    depth, attentions: of the decoder's tokens, its layers and their heads; those of the paper. Raises InputError for
    values out of range.
    """

    needs = ("tokens", "moving")
    on_images = True

    def __init__(
        self,
        masked: float = 0.75,
        width: int = 512,
        depth: int = 8,
        attentions: int = 16,
        normalise: bool = True,
    ):
        super().__init__()
        problems = []
        if not 0 < masked < 1:
            problems.append(Problem("masked", f"expected a share above 0 and below 1, found {masked}"))
        for name, count in {"width": width, "depth": depth, "attentions": attentions}.items():
            if count < 1:
                problems.append(Problem(name, f"expected at least 1, found {count}"))
        if not problems and width % attentions:
            message = f"{width} cannot be shared by {attentions} attentions; it must be a multiple of their number"
            problems.append(Problem("width", message))
        if problems:
            raise InputError(problems)
        self.masked, self.width, self.depth, self.attentions = masked, width, depth, attentions
        self.normalise = normalise

    def start(self, beginning: Beginning) -> None:
        """Make the decoder. Raises InputError for an encoder that cannot be given some patches alone."""
        encoder = beginning.network.encoder
        if not hasattr(encoder, "visible"):
            message = f"needs an encoder that takes some patches of an image alone, and {type(encoder).__name__} cannot"
            hint = "expected ViT; Reconstruction with `masked` is for convolutional encoders"
            raise InputError([Problem(WHERE, message, hint)])
        patches = prod(encoder.grid)
        voxels = pad(torch.empty(beginning.input_shape, device="meta"), encoder.padding).numel() // patches
        if patches < 2 or (self.normalise and voxels < 2):
            message = f"needs images of two or more patches of two or more voxels, found {patches} of {voxels}"
            raise InputError([Problem(WHERE, message, "set `patch_size` of the architecture")])
        self.shown = patches - min(max(round(self.masked * patches), 1), patches - 1)
        self.decoder = PatchDecoder(encoder, voxels, self.width, self.depth, self.attentions)

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar, over all images of the step."""
        return self.each(step).mean()

    def each(self, step: Step) -> Tensor:
        """The mean error of each scan's hidden patches, (B,)."""
        encoder, images = step.network.encoder, step.images
        order = torch.rand(len(images), prod(encoder.grid)).argsort(1).to(images.device)
        with kept_statistics(step):
            tokens = step.network.visible(images, order[:, : self.shown])
        predicted = self.decoder(tokens, order, self.shown).float()
        wanted = self.wanted(pad(images, encoder.padding), encoder.grid)
        hidden = wanted[torch.arange(len(images), device=images.device)[:, None], order[:, self.shown :]]
        return (predicted - hidden).square().mean(dim=(1, 2))

    def wanted(self, images: Tensor, grid: tuple[int, ...]) -> Tensor:
        """What is to be predicted for every patch of images (B, C, ...): (B, patches, D)."""
        found = patches_of(images.float(), grid)
        if not self.normalise:
            return found
        return (found - found.mean(dim=2, keepdim=True)) / (found.var(dim=2, keepdim=True) + 1e-6).sqrt()


class PatchDecoder(nn.Module):
    """Tokens of the patches that an encoder was shown -> voxels of those that it was not."""

    def __init__(self, encoder: nn.Module, voxels: int, width: int, depth: int, attentions: int):
        super().__init__()
        self.embed = nn.Linear(encoder.channels, width)
        self.hidden = nn.Parameter(torch.randn(width) * 0.02)
        self.register_buffer("positions", positions_of(encoder.grid, width), persistent=False)
        layers = [TransformerBlock(width, 4 * width, attentions, 0.0, qkv_bias=True) for _ in range(depth)]
        self.layers, self.norm = nn.ModuleList(layers), nn.LayerNorm(width)
        self.predict = nn.Linear(width, voxels)
        for layer in layers:
            layer.norm_cross_attn = nn.Identity()  # MONAI has it and never uses it
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, order: Tensor, shown: int) -> Tensor:
        """(B, shown, channels), after a class token if there is one -> (B, patches - shown, D).

        order: (B, patches), numbers of the patches that were shown, in the order of their tokens, then of the others,
        in the order of what is predicted.
        """
        tokens, first = self.embed(tokens), tokens.shape[1] - shown
        hidden = self.hidden.to(tokens.dtype).expand(len(order), order.shape[1] - shown, -1)
        placed = torch.cat([tokens[:, first:], hidden], dim=1) + self.positions[order]
        tokens = torch.cat([tokens[:, :first], placed], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.predict(self.norm(tokens[:, first + shown :]))


def patches_of(images: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(B, C, ...) cut into a grid of patches: (B, patches, C * voxels of a patch), the grid's last axis fastest."""
    dims = len(grid)
    for axis, count in enumerate(grid):
        images = images.unflatten(2 + 2 * axis, (count, -1))
    places, within = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    return images.permute(0, *places, 1, *within).flatten(1, dims).flatten(2)


def positions_of(grid: tuple[int, ...], width: int) -> Tensor:
    """Fixed positions (patches, width): sines and cosines along each axis beside each other, zeros for the rest."""
    each = width // len(grid) // 2 * 2
    found = torch.zeros(*grid, width)
    for axis, size in enumerate(grid):
        waves = sinusoids(size, each).reshape(size, *[1] * (len(grid) - axis - 1), each)
        found[..., axis * each : (axis + 1) * each] = waves
    return found.flatten(0, -2)
