"""What every encoder must hold, whatever it is; each test file runs `check_encoder` over its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tlimb.architectures.build import build_network


def build(class_path: str, input_shape: tuple[int, ...], seed: int = 0, **init_args) -> nn.Module:
    """The encoder as a sweep would name it, for images (C, ...), with fixed weights."""
    architecture = {"class_path": class_path, "init_args": init_args}
    return build_network(architecture, input_shape, {"target": 1}, seed).encoder


def images_of(input_shape: tuple[int, ...], number: int = 2) -> Tensor:
    """Random images (number, C, ...), always the same ones."""
    return torch.randn(number, *input_shape, generator=torch.Generator().manual_seed(7))


def check_encoder(class_path: str, shapes: list[tuple[int, ...]], bf16: float = 0.1, **init_args) -> None:
    """All checks on one encoder, for each of two or more shapes (C, ...) of an image.

    bf16: the largest error of bfloat16, as a share of the largest value, that is taken for rounding.
    """
    assert len(set(shapes)) > 1
    for number, shape in enumerate(shapes):
        encoder, images = build(class_path, shape, **init_args).eval(), images_of(shape)
        check_what_it_says(encoder, images)
        if number == 0:
            check_gradients(encoder, images)
            check_layout_and_precision(encoder, images, bf16)
    check_smallest(class_path, shapes[0], encoder.smallest, **init_args)


def check_what_it_says(encoder: nn.Module, images: Tensor) -> None:
    """Its attributes are true of what it does: widths, blocks, maps that pool to features, levels ending with maps."""
    encoder.eval()
    with torch.no_grad():
        features, maps, levels = encoder(images), encoder.maps(images), encoder.levels(images)
        torch.testing.assert_close(encoder.pool(maps), features)
    assert features.shape == (len(images), encoder.features) and features.dtype == torch.float32
    assert maps.shape[:2] == (len(images), encoder.channels) and maps.ndim >= 3
    torch.testing.assert_close(levels[-1], maps)
    assert encoder.dims == images.ndim - 2 and encoder.dims in type(encoder).kinds
    assert type(encoder).reference and type(encoder).__doc__
    check_blocks(encoder)


def check_blocks(encoder: nn.Module) -> None:
    """Each parameter lies in exactly one block."""
    found = [id(tensor) for name in encoder.blocks for tensor in encoder.get_submodule(name).parameters()]
    lost = [name for name, tensor in encoder.named_parameters() if id(tensor) not in set(found)]
    assert not lost, f"in no block: {lost}"
    assert len(found) == len(set(found)), "some parameter lies in two blocks"


def check_gradients(encoder: nn.Module, images: Tensor, unused: Sequence[str] = ()) -> None:
    """In training mode a gradient, finite and not all zero, reaches each trainable parameter but those `unused`."""
    encoder.train()
    features = encoder(images)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(8))
    (features * weights).sum().backward()
    trainable = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert set(unused) <= set(trainable)
    for name, parameter in trainable.items():
        if name in unused:
            assert parameter.grad is None, f"a gradient reaches {name}"
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), f"no gradient reaches {name}"
            assert parameter.grad.any(), f"the gradient of {name} is zero"
    encoder.zero_grad()
    encoder.eval()


def check_layout_and_precision(encoder: nn.Module, images: Tensor, bf16: float) -> None:
    """The same numbers in channels-last order; nearly the same in bfloat16."""
    encoder.eval()
    with torch.no_grad():
        expected = encoder(images)
        layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
        if images.ndim in layouts:
            laid_out = images.contiguous(memory_format=layouts[images.ndim])
            torch.testing.assert_close(encoder(laid_out), expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = encoder(images).float()
    error = (rounded - expected).abs().max() / expected.abs().max()
    assert error < bf16, f"bfloat16 changes the features by {error:.3f} of the largest"


def check_compiled(encoder: nn.Module, images: Tensor) -> None:
    """The same numbers from torch.compile. Slow: for machines with a compiler, not for each run of the tests."""
    encoder.eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(encoder)(images), encoder(images), rtol=1e-4, atol=1e-5)


def check_smallest(class_path: str, shape: tuple[int, ...], least: int | tuple[int, ...], **init_args) -> None:
    """The least image that it says it can take passes; computed without weights."""
    least = (least,) * (len(shape) - 1) if isinstance(least, int) else tuple(least)
    with torch.device("meta"):
        encoder = build(class_path, (shape[0], *least), **init_args)
        assert encoder(torch.empty(2, shape[0], *least)).shape == (2, encoder.features)
