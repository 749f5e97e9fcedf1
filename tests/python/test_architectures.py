"""Encoders against their papers and peers; networks, heads and weights."""

import pytest
import torch
from torch import nn

from tlimb.architectures.build import build_network
from tlimb.architectures.network import Network
from tlimb.architectures.pooling import max_pool3d
from tlimb.architectures.resnet import ResNet
from tlimb.architectures.sfcn import SFCN
from tlimb.architectures.weights import load_weights, read_weights, save_weights
from tlimb.errors import InputError

SMALL = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 2, "width": 0.125}}


def test_resnet_18_gives_what_monai_gives_with_the_same_weights():
    from monai.networks.nets.resnet import ResNet as Peer

    for dims, image in ((2, torch.randn(2, 3, 40, 48)), (3, torch.randn(2, 1, 20, 24, 20))):
        own = ResNet(depth=18, dims=dims, width=0.25, in_channels=image.shape[1]).eval()
        peer = Peer(
            "basic",
            [2, 2, 2, 2],
            [64, 128, 256, 512],
            spatial_dims=dims,
            n_input_channels=image.shape[1],
            conv1_t_stride=2,
            widen_factor=0.25,
            feed_forward=False,
            bias_downsample=False,
        ).eval()
        peer.load_state_dict(own.state_dict())
        torch.testing.assert_close(own(image), peer(image))


def test_resnet_18_has_the_parameters_of_the_paper():
    count = 49 * 64 + 2 * 64
    for inputs, planes in ((64, 64), (64, 128), (128, 256), (256, 512)):
        count += 9 * inputs * planes + 3 * 9 * planes * planes + 4 * 2 * planes
        count += inputs * planes + 2 * planes if inputs != planes else 0
    assert sum(parameter.numel() for parameter in ResNet(depth=18, dims=2).parameters()) == count


def test_sfcn_has_the_parameters_of_the_papers_layers():
    layers = [(1, 32, 3), (32, 64, 3), (64, 128, 3), (128, 256, 3), (256, 256, 3), (256, 64, 1)]
    convolutions = sum(width**3 * inputs * outputs + outputs for inputs, outputs, width in layers)
    norms = sum(2 * outputs for _, outputs, _ in layers)
    head = 64 * 40 + 40
    network = Network(SFCN(), {"age": torch.nn.Linear(64, 40)})
    assert sum(parameter.numel() for parameter in network.parameters()) == convolutions + norms + head == 2_952_936


def test_sfcn_halves_the_volume_five_times_and_its_head_has_dropout():
    sizes = []
    encoder = SFCN().eval()
    encoder.block6.register_forward_hook(lambda module, given, made: sizes.append(tuple(made.shape)))
    assert encoder(torch.randn(1, 1, 64, 96, 40)).shape == (1, 64)
    assert sizes == [(1, 64, 2, 3, 1)]
    assert Network(encoder, {"age": torch.nn.Linear(64, 1)}).dropout.p == 0.5


def test_sfcn_refuses_a_volume_too_small_to_halve():
    with pytest.raises(InputError, match="at least 32 voxels an axis, the data have 40x30x40"):
        build_network({"class_path": "SFCN", "init_args": {}}, (1, 40, 30, 40), {"age": 1}, 0)


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1)])
def test_separable_pooling_is_torchs_pooling(size, stride, padding):
    images = torch.randn(2, 3, 9, 10, 11)
    assert torch.equal(
        max_pool3d(images, size, stride, padding), nn.functional.max_pool3d(images, size, stride, padding)
    )


def test_channels_follow_from_the_data_and_may_not_be_typed():
    assert build_network(SMALL, (5, 16, 16), {"age": 1}, 0).encoder.conv1.in_channels == 5
    typed = {"class_path": "ResNet", "init_args": {"dims": 2, "in_channels": 5}}
    with pytest.raises(InputError, match="decided by the data"):
        build_network(typed, (5, 16, 16), {"age": 1}, 0)


def test_volumes_for_a_network_of_slices_are_refused_with_the_way_out():
    with pytest.raises(InputError, match="takes images with 2 axes, the data have 3 .*slices"):
        build_network(SMALL, (1, 16, 16, 16), {"age": 1}, 0)


def test_weights_depend_on_the_seed_alone_and_a_heads_on_its_target():
    first = build_network(SMALL, (1, 16, 16), {"age": 1, "sex": 2}, seed=3)
    torch.randn(100)
    second = build_network(SMALL, (1, 16, 16), {"sex": 2}, seed=3)
    other = build_network(SMALL, (1, 16, 16), {"sex": 2}, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.encoder.parameters(), second.encoder.parameters()))
    assert torch.equal(first.weights()["heads.sex.weight"], second.weights()["heads.sex.weight"])
    assert not torch.equal(second.weights()["heads.sex.weight"], other.weights()["heads.sex.weight"])
    assert not torch.equal(second.encoder.conv1.weight, other.encoder.conv1.weight)


def test_building_a_network_leaves_torchs_generator_alone():
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    build_network(SMALL, (1, 16, 16), {"age": 1}, seed=3)
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("target", ["type", "a.b", "train"])
def test_a_target_may_bear_any_name(target):
    network = build_network(SMALL, (1, 16, 16), {target: 2}, 0)
    assert network(torch.randn(2, 1, 16, 16))[target].shape == (2, 2)
    assert f"heads.{target}.weight" in network.weights()


def test_weights_come_back_bit_for_bit(tmp_path):
    network = build_network(SMALL, (1, 16, 16), {"age": 1}, 0)
    save_weights(tmp_path / "w.safetensors", network.encoder.state_dict())
    other = build_network(SMALL, (1, 16, 16), {"age": 1}, 1)
    report = load_weights(other.encoder, read_weights(tmp_path / "w.safetensors"), "w.safetensors")
    assert len(report.matched) == len(network.encoder.state_dict()) and not report.missing
    assert all(
        torch.equal(a, b) for a, b in zip(network.encoder.state_dict().values(), other.encoder.state_dict().values())
    )


def test_weights_that_do_not_fit_are_refused_by_name_and_nothing_is_copied():
    network = build_network(SMALL, (1, 16, 16), {"age": 1}, 0)
    tensors = {
        name: tensor + 1
        for name, tensor in build_network(SMALL, (3, 16, 16), {"age": 1}, 0).encoder.state_dict().items()
    }
    del tensors["bn1.weight"]
    tensors["extra"] = torch.zeros(1)
    before = network.encoder.bn1.bias.clone()
    with pytest.raises(InputError) as raised:
        load_weights(network.encoder, tensors, "w.safetensors")
    text = str(raised.value)
    assert "1 missing, 1 unexpected, 1 reshaped" in text
    assert "bn1.weight" in text and "extra" in text and "conv1.weight" in text
    assert torch.equal(before, network.encoder.bn1.bias)


def test_a_damaged_file_of_weights_is_an_error_with_its_path(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="w.safetensors"):
        read_weights(tmp_path / "w.safetensors")
