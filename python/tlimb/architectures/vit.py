"""Vision transformer for slices and volumes, of MONAI's blocks."""

from math import ceil
from typing import Literal

import torch
from monai.networks.blocks.patchembedding import PatchEmbeddingBlock
from monai.networks.blocks.transformerblock import TransformerBlock
from torch import Tensor, nn
from torch.nn.functional import pad

from tlimb.architectures.arguments import PLACE, axis_problems, per_axis, require_numbers
from tlimb.errors import InputError, Problem

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width of a token, number of layers, heads of attention; base and large by Dosovitskiy et al., the others by Touvron
et al. (2021), "Training data-efficient image transformers", ICML."""


class ViT(nn.Module):
    """Encoder (B, C, ...) -> (B, hidden_size), by attention between patches of the image.

    Dosovitskiy et al. (2021), "An image is worth 16x16 words: transformers for image recognition at scale", ICLR.

    ================  =========================================================  ======================
    block             layers                                                     tokens
    ================  =========================================================  ======================
    patch_embedding   convolution as wide as its stride, position added,         one a patch, and the
                      the class token put before                                 class token
    layers.0, 1, ...  x + attention(norm(x)), x + MLP(norm(x)) with GELU         kept
    norm              layer norm                                                 kept
    pool              the class token, or the mean of all                        one
    ================  =========================================================  ======================

    The layers are MONAI's; its names `blocks.<n>` are `layers.<n>` here, and the weights of its layer norms for cross
    attention, which it keeps but never uses, are left out. As in MONAI the class token has no position.

    size: tiny, small, base or large; hidden_size, layers, heads, mlp_size (4 * hidden_size): other than that size has
    it. patch_size: width of a patch, one number or one an axis; zeros are put after the end of an axis that is no
    multiple of it. position: learnable, or fixed sines and cosines. pooling: "class"; "mean" of the patches, whose
    maps then are images; "first" patch, which is what BrainIAC's code takes. qkv_bias: a bias for queries, keys and
    values, as in the paper's code; MONAI has none. norm_eps: what layer norms add to variances; 1e-6 in the paper's
    code, timm and torchvision. dropout: rate after embedding, attention and MLP; head_dropout: rate of features on
    their way to the heads. input_shape: decided by the data. Raises InputError for arguments that do not go together.
    """

    reference = "Dosovitskiy et al. 2021, ICLR"
    kinds = (2, 3)

    def __init__(
        self,
        dims: Literal[2, 3] = 3,
        size: Literal["tiny", "small", "base", "large"] = "base",
        patch_size: int | list[int] = 16,
        hidden_size: int | None = None,
        layers: int | None = None,
        heads: int | None = None,
        mlp_size: int | None = None,
        position: Literal["learnable", "sincos"] = "learnable",
        pooling: Literal["class", "mean", "first"] = "class",
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        head_dropout: float = 0.0,
        *,
        input_shape: tuple,
    ):
        super().__init__()
        require_numbers(
            counts={"hidden_size": hidden_size, "layers": layers, "heads": heads, "mlp_size": mlp_size},
            factors={"norm_eps": norm_eps},
            rates={"dropout": dropout, "head_dropout": head_dropout},
        )
        width, depth, attentions = SIZES[size]
        width, depth, attentions = hidden_size or width, layers or depth, heads or attentions
        patch = per_axis(patch_size, dims)
        _require_whole(dims, patch, width, attentions, position)
        self.dims, self.head_dropout, self.pooling = dims, head_dropout, pooling
        self.channels = self.features = width
        self.smallest = patch
        self.image = tuple(input_shape[1:])
        self.grid = tuple(ceil(length / side) for length, side in zip(self.image, patch))
        padded = [count * side for count, side in zip(self.grid, patch)]
        self.padding = [end for total, length in zip(padded, self.image) for end in (total - length, 0)][::-1]
        self.patch_embedding = PatchEmbeddingBlock(
            in_channels=input_shape[0],
            img_size=padded,
            patch_size=patch,
            hidden_size=width,
            num_heads=attentions,
            pos_embed_type=position,
            dropout_rate=dropout,
            spatial_dims=dims,
        )
        mlp = mlp_size or 4 * width
        made = [TransformerBlock(width, mlp, attentions, dropout, qkv_bias) for _ in range(depth)]
        self.layers = nn.ModuleList(made)
        self.norm = nn.LayerNorm(width)
        self.blocks = ("patch_embedding", *(f"layers.{number}" for number in range(depth)), "norm")
        self._finish(norm_eps)

    def maps(self, images: Tensor) -> Tensor:
        """(B, C, ...) -> (B, channels, ...) on the grid of patches, (B, channels, 1 + patches) with a class token."""
        made = self._passed(self._embedded(images)).transpose(1, 2)
        return made if self.pooling == "class" else made.unflatten(2, self.grid)

    def visible(self, images: Tensor, keep: Tensor) -> Tensor:
        """Tokens of some patches that see each other alone, (B, K, channels), (B, 1 + K, channels) with a class token.

        keep: numbers of the patches of each image, (B, K), counted with the last axis of the grid fastest. The others
        are dropped once positions are added: He et al. (2022), "Masked autoencoders are scalable vision learners", CVPR.
        """
        rows = torch.arange(len(keep), device=keep.device)[:, None]
        return self._passed(self._embedded(images)[rows, keep])

    def pool(self, maps: Tensor) -> Tensor:
        """The class token, the mean of all patches or the first one."""
        tokens = maps.flatten(2)
        return tokens.mean(dim=2) if self.pooling == "mean" else tokens[:, :, 0]

    def levels(self, images: Tensor) -> list[Tensor]:
        """The maps alone: all layers are on one grid."""
        return [self.maps(images)]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, features) of images (B, C, ...) of the size that the encoder was built for."""
        return self.pool(self.maps(images))

    def _embedded(self, images: Tensor) -> Tensor:
        """Patches with their positions, (B, patches, channels)."""
        self._require_size(images)
        return self.patch_embedding(pad(images, self.padding))

    def _passed(self, tokens: Tensor) -> Tensor:
        """Tokens through all layers, after the class token where there is one."""
        if self.pooling == "class":
            first = self.patch_embedding.cls_token.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([first, tokens], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens)

    def _finish(self, norm_eps: float) -> None:
        """Leave nothing that trains unused or is fixed but would train; set what MONAI has no argument for."""
        for layer in self.layers:
            layer.norm_cross_attn = nn.Identity()
            layer.norm1.eps = layer.norm2.eps = norm_eps
        self.norm.eps = norm_eps
        embedding = self.patch_embedding
        if not embedding.position_embeddings.requires_grad:
            fixed = embedding.position_embeddings.data
            del embedding.position_embeddings
            embedding.register_buffer("position_embeddings", fixed)
        if self.pooling == "class":
            embedding.cls_token = nn.Parameter(torch.zeros(1, 1, self.features))

    def _require_size(self, images: Tensor) -> None:
        if tuple(images.shape[2:]) != self.image:
            found, known = ("x".join(map(str, shape)) for shape in (images.shape[2:], self.image))
            raise InputError([Problem("architecture ViT", f"was built for images of {known}, these have {found}")])


def _require_whole(dims: int, patch: tuple[int, ...], width: int, heads: int, position: str) -> None:
    """That arguments go together; raises InputError with all that do not."""
    problems = axis_problems(dims, patch_size=patch)
    if width % heads:
        message = f"{width} cannot be shared by {heads} heads; it must be a multiple of their number"
        problems.append(Problem(f"{PLACE}.hidden_size", message))
    if position == "sincos" and width % (2 * dims):
        message = f"sines and cosines of {dims} axes need a multiple of {2 * dims}, found {width}"
        problems.append(Problem(f"{PLACE}.hidden_size", message))
    if problems:
        raise InputError(problems)
