"""Modules of anybody's as encoders, and sizes held against the data before anything trains."""

import copy
import re
from pathlib import Path

import own_nets
import pytest
import torch

from tlimb.architectures.build import build_network
from tlimb.architectures.freezing import fixed_modules, slots_of
from tlimb.architectures.gru import GRU
from tlimb.architectures.size_check import trial_pass, weightless
from tlimb.architectures.wrapped import Wrapped, WrappedMaps
from tlimb.errors import InputError

VOLUME, SLICE = (1, 12, 10, 8), (3, 12, 10)
DOCS = Path(__file__).parents[2] / "docs" / "own-networks.md"


def build(class_path: str, shape=VOLUME, heads=None, outputs=None, **init_args):
    """The network of a class of `own_nets`, or of another by its path."""
    path = class_path if "." in class_path else f"own_nets.{class_path}"
    architecture = {"class_path": path, "init_args": init_args}
    return build_network(architecture, shape, outputs or {"age": 1}, 0, ("own_nets",), heads)


def told(class_path: str, shape=VOLUME, **more) -> str:
    """What building it is refused with."""
    with pytest.raises(InputError) as raised:
        build(class_path, shape, **more)
    return str(raised.value)


def test_a_module_of_ones_own_is_an_encoder_with_its_own_names_and_numbers():
    encoder = build("Plain", width=5).encoder
    alone = own_nets.Plain(width=5)
    assert list(encoder.state_dict()) == list(alone.state_dict())
    assert [name for name, _ in encoder.named_parameters()] == [name for name, _ in alone.named_parameters()]
    assert (encoder.features, encoder.dims, encoder.blocks) == (5, 3, ("stem", "norm", "last"))
    alone.load_state_dict(encoder.state_dict())
    images = torch.randn(2, *VOLUME)
    assert torch.equal(encoder.eval()(images), alone.eval()(images))


def test_what_is_done_to_the_wrapped_encoder_is_done_to_the_module():
    encoder = build("Plain").encoder
    images = torch.randn(2, *VOLUME)
    before = encoder.eval()(images)
    assert not any(module.training for module in [encoder, encoder._wrapped[0], *encoder.modules()])
    for mode in (True, False):
        encoder.training = mode
        assert encoder._wrapped[0].training is mode
    encoder.load_state_dict({name: tensor + 1 for name, tensor in encoder.state_dict().items()})
    assert not torch.allclose(encoder(images), before)
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        twin.stem.weight.zero_()
        twin.scale.zero_()
    assert encoder.stem.weight.any() and encoder.scale.any() and not torch.allclose(twin(images), encoder(images))
    doubled = encoder.double()
    assert doubled(images.double()).dtype == torch.float64
    parent = encoder.get_submodule("")
    setattr(parent, "last", torch.nn.Linear(4, 2, dtype=torch.float64))
    assert encoder(images.double()).shape == (2, 2) and "last.weight" in encoder.state_dict()


def test_maps_are_averaged_over_positions_and_go_to_heads_that_look_at_positions():
    heads = {"sex": {"class_path": "AttentionPoolHead", "init_args": {}}}
    network = build("Maps", SLICE, heads, {"age": 1, "sex": 2})
    encoder, images = network.encoder.eval(), torch.randn(2, *SLICE)
    assert isinstance(encoder, WrappedMaps) and encoder.maps(images).shape == (2, 8, 6, 5)
    torch.testing.assert_close(encoder(images), encoder.maps(images).mean((2, 3)))
    made = network(images)
    assert made["age"].shape == (2, 1) and made["sex"].shape == (2, 2)
    made["sex"].sum().backward()
    assert encoder.get_submodule("features.0").weight.grad.any()


def test_children_may_bear_the_names_that_tlimb_uses():
    encoder = build("Maps", SLICE).encoder
    assert encoder.features == 8 and encoder.blocks == ("features", "blocks")
    assert [name for name, _ in encoder.named_children()] == ["features", "blocks"]
    assert encoder.get_submodule("features.0").in_channels == 3
    assert "features.0.weight" in encoder.state_dict()


def test_an_only_child_is_not_one_block_but_its_children():
    assert build("Nested", (5, 20)).encoder.blocks == ("body.0", "body.2")


def test_features_of_a_module_do_not_reach_heads_that_need_maps():
    heads = {"age": {"class_path": "AttentionPoolHead", "init_args": {}}}
    assert "needs an encoder with maps" in told("Plain", heads=heads)


def test_a_module_that_asks_its_tensors_for_numbers_is_tried_with_zeros():
    with torch.device("meta"):
        network = build("Numbers")
    assert isinstance(network.encoder, Wrapped) and network.encoder.features == 3


def test_monais_networks_are_taken_by_their_path():
    small = {"init_features": 4, "growth_rate": 2, "block_config": [1, 1]}
    encoder = build("monai.networks.nets.densenet.DenseNet", (2, 32, 32, 32), out_channels=7, **small).encoder
    assert encoder.features == 7 and encoder.dims == 3
    assert encoder.get_submodule("features.conv0").in_channels == 2


def test_an_encoder_exports_with_its_own_names():
    network = build("Plain").eval()
    images = torch.randn(2, *VOLUME)
    exported = torch.export.export(network, (images,))
    torch.testing.assert_close(exported.module()(images)["age"], network(images)["age"])
    assert "encoder.stem.weight" in exported.state_dict


def test_building_draws_nothing_even_where_the_module_does():
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    build("Drawing", (4, 5))
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Tuple", "gives a tuple for images of shape (1, 12, 10, 8)"),
        ("Alone", "expected (2, features) or maps (2, C, ...)"),
        ("Broken", "AttributeError: 'Tensor' object has no attribute 'no_such_thing', in forward, line"),
        ("Liar", "says that it has 9 features"),
        ("NoModule", "is no torch.nn.Module"),
    ],
)
def test_what_is_no_encoder_is_refused_with_the_reason(name, words):
    assert words in told(name)


def test_a_frozen_module_does_not_draw():
    encoder = build("Forgetful", (4, 5)).encoder.train()
    for module in fixed_modules(slots_of(encoder), [], len(slots_of(encoder))):
        module.training = False
    images = torch.randn(2, 4, 5)
    assert torch.equal(encoder(images), encoder(images))


def test_arguments_that_a_class_needs_are_told_by_their_place():
    assert "architecture.init_args.name: missing; Timm needs it" in told("tlimb.architectures.timm_models.Timm", SLICE)
    within = told("tlimb.architectures.slice_set.SliceSet", (1, 33, 34, 35), slice_encoder="Timm")
    assert "slice_encoder.init_args.name: missing; Timm needs it" in within
    needed = told("own_nets.Needy", (4, 5))
    assert all(f"architecture.init_args.{name}: missing; Needy needs it" in needed for name in ("width", "depth"))


def test_arguments_that_a_class_refuses_are_told():
    assert "cannot be built: RuntimeError" in told("Plain", width=-1)


@pytest.mark.parametrize("path", ["torch.nn.modules.container.Sequential", "torch.nn.modules.conv.Conv3d"])
def test_torchs_own_layers_cannot_be_put_together_in_json(path):
    assert "JSON cannot give" in told(path)


def test_images_that_a_module_cannot_take_are_told_with_both_shapes():
    text = told("Nested", (7, 20))
    with torch.device("meta"):  # where nothing is to be run
        assert told("Nested", (7, 20)) == text
    assert "architecture own_nets.Nested: cannot take images of shape (7, 20)" in text
    assert "to have 5 channels, but got 7 channels" in text
    assert "cannot take images of shape (5, 4)" in told("Nested", (5, 4))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Wide", "heads.age: gives (3,) for an image, its target needs (2,)"),
        ("Misfit", "heads.age: does not fit own_nets.Plain on images of shape (1, 12, 10, 8)"),
    ],
)
def test_a_head_that_does_not_fit_is_named(name, words):
    heads = {"age": {"class_path": f"own_nets.{name}", "init_args": {}}}
    assert words in told("Plain", heads=heads, outputs={"age": 2})


def test_sizes_below_the_smallest_are_told_with_both():
    with pytest.raises(InputError, match="architecture CNN1D: needs at least 8 time points, the data have 7"):
        build_network({"class_path": "CNN1D", "init_args": {}}, (3, 7), {"age": 1}, 0)
    with pytest.raises(InputError, match="takes images with 1 axes, the data have 3"):
        build_network({"class_path": "GRU", "init_args": {}}, VOLUME, {"age": 1}, 0)


def test_a_trial_pass_needs_neither_memory_nor_time_for_each_step():
    network = GRU(width=8, bidirectional=True, in_channels=4)
    assert all(tensor.is_meta for tensor in weightless(network).parameters())
    assert not any(tensor.is_meta for tensor in network.parameters())
    made = trial_pass(network, (4, 10**6))
    assert made.is_meta and made.shape == (2, 16)
    with pytest.raises(RuntimeError, match="4"):
        trial_pass(network, (5, 20))


def test_the_networks_and_heads_of_the_documentation_work(tmp_path, monkeypatch):
    code = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    assert len(code) >= 2 and all(len(part.strip().splitlines()) < 20 for part in code)
    (tmp_path / "documented_nets.py").write_text("\n\n".join(code))
    monkeypatch.syspath_prepend(tmp_path)
    names = re.findall(r"^class (\w+)", "\n".join(code), re.M)
    assert names == ["Net", "Encoder", "Gated"]
    heads = {"age": {"class_path": "documented_nets.Gated", "init_args": {}}}
    for name in names[:2]:
        architecture = {"class_path": f"documented_nets.{name}", "init_args": {"width": 8}}
        network = build_network(architecture, (1, 16, 16, 16), {"age": 1}, 0, ("documented_nets",), heads)
        assert network(torch.randn(2, 1, 16, 16, 16))["age"].shape == (2, 1)
