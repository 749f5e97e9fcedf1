"""Adapters: what they compute, what they leave behind, and which weights they stand beside."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tlimb.architectures.adapters import LoRA, ParallelAdapter, attach, merge
from tlimb.errors import InputError

CONVOLUTIONS = {
    "1D, strided": (nn.Conv1d(4, 6, 5, stride=2, padding=2), (2, 4, 17)),
    "2D": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 9, 8)),
    "2D, grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 9, 8)),
    "2D, dilated": (nn.Conv2d(4, 6, 3, padding=2, dilation=2), (2, 4, 9, 8)),
    "2D, grouped, strided, dilated": (nn.Conv2d(4, 8, 3, stride=2, padding=2, dilation=2, groups=4), (2, 4, 11, 12)),
    "2D, oblong": (nn.Conv2d(4, 6, (1, 7), padding=(0, 3)), (2, 4, 9, 8)),
    "3D, strided": (nn.Conv3d(4, 6, 3, stride=2, padding=1, bias=False), (2, 4, 7, 6, 5)),
}
FUNCTIONS = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}


class Plain(nn.Module):
    """Some layers as an encoder."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, images):
        return self.body(images)


def filled(encoder: nn.Module, seed: int = 0) -> list[nn.Parameter]:
    """Every adapter's tensors set to random numbers, as after training; all that trains is returned."""
    generator = torch.Generator().manual_seed(seed)
    learned = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    for name, parameter in encoder.named_parameters():
        if "parametrizations" in name and not name.endswith("original"):
            parameter.data.normal_(0, 0.3, generator=generator)
    return learned


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_low_rank_convolution_is_a_narrow_one_and_a_pointwise_one_beside_it(kind):
    layer, shape = CONVOLUTIONS[kind]
    encoder, images = Plain(clone(layer)), torch.randn(shape)
    assert len(attach(LoRA(rank=3, alpha=6), encoder, 0)) == 1
    filled(encoder)
    convolve, inside = FUNCTIONS[len(shape) - 2], encoder.body[0].parametrizations.weight[0]
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    parts = []
    for inputs, rows in zip(images.chunk(layer.groups, 1), inside.b.chunk(layer.groups), strict=True):
        narrow = convolve(inputs, inside.a.view(3, *layer.weight.shape[1:]), **geometry)
        parts.append(torch.einsum("or,br...->bo...", rows, narrow))
    torch.testing.assert_close(encoder(images), layer(images) + 2.0 * torch.cat(parts, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_parallel_adapter_is_a_pointwise_convolution_beside_it(kind):
    layer, shape = CONVOLUTIONS[kind]
    encoder, images = Plain(clone(layer)), torch.randn(shape)
    assert len(attach(ParallelAdapter(), encoder, 0)) == 1
    pointwise = encoder.body[0].parametrizations.weight[0].pointwise
    kernel = pointwise.view(*pointwise.shape, *(1 for _ in shape[2:]))
    beside = FUNCTIONS[len(shape) - 2](images, kernel, stride=layer.stride, groups=layer.groups)
    torch.testing.assert_close(encoder(images), layer(images) + beside, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adapter", [LoRA(rank=2), ParallelAdapter()], ids=["LoRA", "parallel"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_merged_convolutions_give_what_they_gave_and_are_ordinary(kind, adapter):
    layer, shape = CONVOLUTIONS[kind]
    encoder, images = Plain(clone(layer), nn.ReLU()), torch.randn(shape)
    adapted = attach(adapter, encoder, 0)
    filled(encoder)
    before = encoder(images)
    merge(adapted)
    assert (encoder(images) - before).abs().max() < 1e-5
    assert set(encoder.state_dict()) == set(Plain(layer).state_dict())
    assert type(encoder.body[0]) is type(layer)
    assert not torch.allclose(encoder.body[0].weight, layer.weight)


def clone(layer: nn.Module) -> nn.Module:
    """A layer of its own with the same numbers."""
    arguments = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    copy = type(layer)(**{name: getattr(layer, name) for name in arguments}, bias=layer.bias is not None)
    copy.load_state_dict(layer.state_dict())
    return copy


def test_low_rank_linear_layers_and_attention_follow_the_formula():
    torch.manual_seed(0)
    encoder, attention = Plain(nn.Linear(5, 7)), nn.MultiheadAttention(8, 2, batch_first=True)
    weight, projection = encoder.body[0].weight.detach().clone(), attention.in_proj_weight.detach().clone()
    assert len(attach(LoRA(rank=2, alpha=3), encoder, 0)) == 1
    adapted = attach(LoRA(rank=2, alpha=3), attention, 0)
    assert [name for _, name in adapted] == ["in_proj_weight", "weight"]
    filled(encoder), filled(attention)
    inside, images = encoder.body[0].parametrizations.weight[0], torch.randn(4, 5)
    expected = images @ weight.T + 1.5 * (images @ inside.a.T) @ inside.b.T + encoder.body[0].bias
    torch.testing.assert_close(encoder(images), expected)
    inside, tokens = attention.parametrizations.in_proj_weight[0], torch.randn(2, 3, 8)
    before = attention(tokens, tokens, tokens)[0]
    merge(adapted)
    torch.testing.assert_close(attention.in_proj_weight, projection + 1.5 * inside.b @ inside.a)
    torch.testing.assert_close(attention(tokens, tokens, tokens)[0], before)


def test_a_low_rank_adapter_starts_from_the_network_as_it_was_and_its_weights_are_fixed():
    encoder, images = Plain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1)), torch.randn(2, 3, 8, 8)
    before = encoder(images)
    attach(LoRA(rank=2), encoder, 0)
    torch.testing.assert_close(encoder(images), before)
    for number, inputs in ((0, 27), (2, 4)):
        inside = encoder.body[number].parametrizations.weight
        assert not inside.original.requires_grad and not inside[0].b.any()
        assert 0.5 / math.sqrt(inputs) < inside[0].a.abs().max() <= 1 / math.sqrt(inputs)


def test_where_a_parallel_adapter_starts_is_chosen():
    wide = Plain(nn.Conv2d(32, 64, 3))
    zero = Plain(clone(wide.body[0]))
    attach(ParallelAdapter(), wide, 0)
    attach(ParallelAdapter(start="zero"), zero, 0)
    assert wide.body[0].parametrizations.weight[0].pointwise.detach().std() == pytest.approx(math.sqrt(2 / 64), rel=0.1)
    assert not zero.body[0].parametrizations.weight[0].pointwise.any()


def test_layers_without_a_centre_or_not_named_are_left_alone():
    layers = [nn.Conv2d(1, 2, 4), nn.Conv2d(2, 2, 1), nn.Linear(2, 2), nn.ConvTranspose2d(2, 2, 3)]
    assert attach(ParallelAdapter(), Plain(*layers), 0) == []
    assert len(attach(LoRA(layers=["body.1", "body.2"]), Plain(*layers), 0)) == 2


def test_a_layer_with_a_parametrization_of_its_own_keeps_it():
    encoder = Plain(weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    names = list(encoder.state_dict())
    adapted = attach(LoRA(), encoder, 0)
    assert adapted == [(encoder.body[1], "weight")]
    merge(adapted)
    assert sorted(encoder.state_dict()) == sorted(names)


def test_an_adapter_starts_from_the_seed_and_the_name_of_its_weight_alone():
    def starts(seed: int, *before: nn.Module) -> torch.Tensor:
        torch.randn(3)
        encoder = nn.ModuleDict({"other": nn.Sequential(*before), "own": nn.Linear(4, 4)})
        attach(LoRA(), encoder, seed)
        return encoder["own"].parametrizations.weight[0].a

    assert torch.equal(starts(0), starts(0, nn.Linear(3, 3)))
    assert not torch.equal(starts(0), starts(1))


def test_a_rank_below_one_is_refused():
    with pytest.raises(InputError, match="expected at least 1, found 0"):
        LoRA(rank=0)
