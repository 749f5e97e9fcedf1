"""Encoders of series, slices and volumes against their papers, their peers and published code."""

import subprocess
import sys
import os
import shutil

import pytest
import torch
from encoder_checks import build, check_compiled, check_encoder, images_of
from torch import nn

from tlimb.architectures.densenet import AveragePool3d, DenseNet
from tlimb.architectures.resnet import ResNet
from tlimb.architectures.sfcn import SFCN
from tlimb.architectures.swin import RepeatedMerging, Swin
from tlimb.architectures.vit import ViT
from tlimb.errors import InputError


@pytest.mark.parametrize(
    ("class_path", "shapes", "init_args"),
    [
        ("ResNet", [(3, 40), (1, 65)], {"dims": 1, "width": 0.125}),
        ("ResNet", [(3, 40, 48), (1, 33, 35)], {"dims": 2, "width": 0.125, "dropout": 0.1}),
        ("ResNet", [(1, 20, 24, 20), (2, 33, 17, 16)], {"dims": 3, "depth": 10, "width": 0.125}),
        ("ResNet", [(1, 40, 48), (2, 33, 17)], {"dims": 2, "depth": 50, "width": 0.0625, "shortcut_bias": True}),
        ("ResNet", [(1, 80, 80), (2, 66, 70)], {"dims": 2, "depth": 10, "width": 0.125, "norm": "instance"}),
        ("ResNet", [(1, 9, 16, 9), (2, 8, 8, 8)], {"depth": 10, "width": 0.125, "dilated": True, "stem_pool": False}),
        ("DenseNet", [(1, 40, 33), (2, 64, 32)], {"dims": 2, "width": 0.125, "norm": "group", "activation": "gelu"}),
        ("DenseNet", [(1, 30, 32, 33), (2, 30, 32, 29)], {"dims": 3, "width": 0.0625}),
        ("SFCN", [(1, 40, 32, 33), (2, 64, 32, 32)], {"width": 0.25}),
        ("ViT", [(1, 40, 32), (2, 20, 35)], {"dims": 2, "size": "tiny", "layers": 2, "patch_size": 8}),
        ("ViT", [(1, 20, 23, 20), (2, 35, 16, 20)], {"size": "tiny", "layers": 2, "pooling": "mean"}),
        ("ViT", [(1, 20, 23, 20), (2, 17, 16, 20)], {"hidden_size": 24, "layers": 1, "position": "sincos"}),
        ("Swin", [(1, 64, 48), (2, 33, 67)], {"dims": 2, "feature_size": 12}),
        ("Swin", [(1, 32, 33, 32), (2, 35, 32, 32)], {"feature_size": 12, "window_size": 3, "drop_path": 0.1}),
    ],
)  # fmt: skip
def test_an_encoder_holds_what_all_must(class_path, shapes, init_args):
    check_encoder(class_path, shapes, **init_args)


@pytest.mark.parametrize(
    ("class_path", "shape", "wrong"),
    [
        ("ResNet", (1, 8, 8, 8), {"width": -1.0, "stem_kernel": 0, "stem_stride": 0, "dropout": 1.0}),
        ("DenseNet", (1, 32, 32, 32), {"width": 0.0, "dropout": -0.1, "head_dropout": 2}),
        ("SFCN", (1, 32, 32, 32), {"width": -2, "head_dropout": 1.5}),
        ("ViT", (1, 16, 16, 16), {"hidden_size": 0, "layers": -1, "heads": 0, "norm_eps": 0.0, "dropout": 1.0}),
        ("Swin", (1, 32, 32, 32), {"feature_size": 0, "depths": [2, 2, 2, 0], "drop_path": 1.0}),
        ("SliceSet", (1, 64, 64, 64), {"attention_heads": 0, "width": 0, "neighbours": 0, "repeat": 0}),
        ("SliceLSTM", (1, 64, 64, 64), {"width": 0, "state": -1}),
        ("SliceCNN", (1, 64, 64), {"channels": [4, 0], "head_dropout": 1.0}),
        ("CNN3D", (1, 64, 64, 64), {"channels": [4, -1], "head_dropout": -1}),
        ("CAE", (1, 24, 24, 24), {"channels": [8, 8, 8, 0], "head_dropout": 1.0}),
        ("SRCAE", (1, 24, 24, 24), {"dropout": 1.0, "head_dropout": -1.0}),
        ("VAE", (1, 24, 24, 24), {"latent": 0}),
        ("CNN1D", (2, 20), {"widths": [0], "dropout": 1.0}),
        ("GRU", (2, 20), {"width": 0, "layers": 0, "dropout": 1.0}),
        ("TemporalTransformer", (2, 20), {"width": -4, "heads": -1, "layers": 0, "hidden": 0.0, "dropout": 1.0}),
        ("Timm", (1, 32, 32), {"name": "resnet18", "head_dropout": 1.0}),
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused_all_at_once(class_path, shape, wrong):
    with pytest.raises(InputError) as raised:
        build(class_path, shape, **wrong)
    expected = [f"architecture.init_args.{name}" for name in wrong if name != "name"]
    assert sorted(problem.where for problem in raised.value.problems) == sorted(expected)


def test_numbers_of_a_slice_encoder_are_refused_by_their_place():
    with pytest.raises(InputError, match="slice_encoder.init_args.width: expected a number above 0, found -1.0"):
        build("SliceSet", (1, 9, 9, 9), slice_encoder={"class_path": "ResNet", "init_args": {"width": -1.0}})


@pytest.mark.long
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(
    ("class_path", "shape", "init_args"),
    [
        ("ResNet", (1, 40, 48), {"dims": 2, "depth": 10, "width": 0.125}),
        ("CNN3D", (1, 12, 8, 10), {"channels": [4, 6]}),
        ("ViT", (1, 40, 32), {"dims": 2, "size": "tiny", "layers": 2, "patch_size": 8}),
        ("SliceSet", (1, 9, 12, 10), {"slice_encoder": {"class_path": "SliceCNN", "init_args": {"channels": [4]}}}),
        ("CAE", (1, 24, 24), {"dims": 2}),
        ("CNN1D", (5, 24), {"widths": [8, 16]}),
    ],
)  # fmt: skip
def test_a_compiled_encoder_gives_the_same_numbers(class_path, shape, init_args):
    check_compiled(build(class_path, shape, **init_args), images_of(shape))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def by_order(source: nn.Module, skip: int = 0) -> list:
    """Tensors of a peer's state dict in their order, without those of the classifier, the last `skip`."""
    return list(source.state_dict().values())[: len(source.state_dict()) - skip]


def load_by_order(encoder: nn.Module, tensors: list) -> None:
    """Copy by order; shapes must agree one by one."""
    own = encoder.state_dict()
    assert [tensor.shape for tensor in own.values()] == [tensor.shape for tensor in tensors]
    encoder.load_state_dict(dict(zip(own, tensors)))


def disturb_norms(module: nn.Module) -> nn.Module:
    """Fresh norms do nothing; scales, shifts and statistics away from 1 and 0 show when they are swapped."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return module.eval()


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_a_resnet_has_the_parameters_of_torchvisions(depth):
    import torchvision

    with torch.device("meta"):
        peer = getattr(torchvision.models, f"resnet{depth}")()
        own = ResNet(depth=depth, dims=2, in_channels=3)
    assert count(own) == count(peer) - count(peer.fc)


@pytest.mark.parametrize(("depth", "classes"), [(18, "BasicBlock"), (50, "Bottleneck")])
def test_a_resnet_gives_torchvisions_numbers_with_its_state_dict(depth, classes):
    from torchvision.models import resnet

    peer = disturb_norms(resnet.ResNet(getattr(resnet, classes), [2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3]))
    own = ResNet(depth=depth, dims=2, in_channels=3).eval()
    own.load_state_dict({name: tensor for name, tensor in peer.state_dict().items() if not name.startswith("fc.")})
    peer.fc = nn.Identity()
    images = images_of((3, 70, 64))
    with torch.no_grad():
        torch.testing.assert_close(own(images), peer(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("up_to", "millions"),
    [(None, 11.2), ("layer3.1.conv1", 9.6), ("layer4.0.conv1", 8.4), ("layer4.1.conv1", 4.7)],
)
def test_freezing_up_to_a_block_leaves_the_millions_of_the_papers_table(up_to, millions):
    encoder = build("ResNet", (1, 64, 64), depth=18, dims=2)
    names = [name for name, _ in encoder.named_parameters()]
    first = 0 if up_to is None else names.index(f"{up_to}.weight")
    left = sum(parameter.numel() for _, parameter in list(encoder.named_parameters())[first:])
    assert round((left + 512 * 2 + 2) / 1e6, 1) == millions


def waves(module: nn.Module) -> nn.Module:
    """Weights that any program can make: 1.5 sin(i) / sqrt(fan in) for kernels, near 1 for scales and variances."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64)).reshape(tensor.shape)
            fan_in = tensor[0].numel() ** 0.5
            around = 1.5 * wave / fan_in if tensor.ndim > 1 else 0.1 * wave + (not name.endswith(("bias", "mean")))
            tensor.copy_(around)
    return module.eval()


MEDICALNET = {
    (10, "B"): [0.007956586, 0.010158288, 0.030020060, 0.030009419],
    (10, "A"): [0.076880924, 0.204190820, 0.736623585, 0.634898365],
}
"""Mean, standard deviation, largest and first of the features of MedicalNet's own models/resnet.py, with the weights
and the volume of the test below."""


@pytest.mark.parametrize(("depth", "shortcut"), [(10, "B"), (10, "A")])
def test_a_dilated_resnet_gives_the_numbers_of_medicalnets_code(depth, shortcut):
    encoder = waves(ResNet(depth=depth, shortcut=shortcut, dilated=True))
    volume = torch.cos(torch.arange(16**3, dtype=torch.float64)).float().reshape(1, 1, 16, 16, 16)
    with torch.no_grad():
        features = encoder(volume)[0]
    found = torch.stack([features.mean(), features.std(), features.max(), features[0]])
    torch.testing.assert_close(found, torch.tensor(MEDICALNET[depth, shortcut]), rtol=1e-5, atol=1e-6)


def test_normalisation_and_activation_reach_every_layer():
    encoder = ResNet(depth=18, dims=2, norm="layer", activation="swish", width=0.25)
    kinds = {type(module) for module in encoder.modules()}
    assert nn.GroupNorm in kinds and not {nn.BatchNorm2d, nn.ReLU} & kinds
    assert {module.num_groups for module in encoder.modules() if isinstance(module, nn.GroupNorm)} == {1}
    wide = ResNet(depth=18, dims=2, norm="group")
    assert {module.num_groups for module in wide.modules() if isinstance(module, nn.GroupNorm)} == {32}


def test_dropout_of_a_resnet_takes_whole_channels_in_training_alone():
    encoder = build("ResNet", (1, 40, 40), dims=2, depth=10, width=0.125, dropout=0.5, norm="group")
    plain = build("ResNet", (1, 40, 40), dims=2, depth=10, width=0.125, norm="group").eval()
    images = images_of((1, 40, 40), number=4)
    assert torch.equal(encoder.eval()(images), plain(images))
    empty = (encoder.train().maps(images).flatten(2) == 0).all(dim=2).float().mean()
    assert 0.2 < empty < 0.8


@pytest.mark.parametrize("depth", [121, 201])
def test_a_densenet_has_the_parameters_of_torchvisions(depth):
    import torchvision

    with torch.device("meta"):
        peer = getattr(torchvision.models, f"densenet{depth}")()
        own = DenseNet(depth=depth, dims=2, in_channels=3)
    assert count(own) == count(peer) - count(peer.classifier)
    assert own.features == peer.classifier.in_features


def test_a_densenet_gives_torchvisions_numbers_with_its_tensors_in_order():
    import torchvision

    made = torchvision.models.DenseNet(growth_rate=4, block_config=(6, 12, 24, 16), num_init_features=8)
    peer, own = disturb_norms(made), DenseNet(depth=121, dims=2, width=0.125, in_channels=3).eval()
    load_by_order(own, by_order(peer, skip=2))
    peer.classifier = nn.Identity()
    images = images_of((3, 70, 64))
    with torch.no_grad():
        torch.testing.assert_close(own(images), peer(images), rtol=1e-5, atol=1e-5)


def test_the_3d_densenet_gives_monais_numbers():
    from monai.networks.nets import DenseNet as Peer

    peer = disturb_norms(Peer(3, 1, 2, init_features=4, growth_rate=2, block_config=(6, 12, 24, 16)))
    own = DenseNet(depth=121, dims=3, width=0.0625).eval()
    load_by_order(own, by_order(peer, skip=2))
    peer.class_layers.out = nn.Identity()
    volumes = images_of((1, 34, 40, 33))
    with torch.no_grad():
        torch.testing.assert_close(own(volumes), peer(volumes), rtol=1e-5, atol=1e-5)


def test_a_densenet_takes_series():
    with torch.device("meta"):
        encoder = DenseNet(depth=121, dims=1, in_channels=100)
        assert encoder(torch.empty(2, 100, 150)).shape == (2, 1024)


def test_separable_averages_are_torchs_averages():
    volumes = images_of((3, 9, 10, 11))
    torch.testing.assert_close(AveragePool3d()(volumes), nn.functional.avg_pool3d(volumes, 2))


def sfcn_of_standard_layers(channels: list[int], bins: int) -> nn.Module:
    """The layers of the published code, dp_model/model_files/sfcn.py, in their order."""
    layers = []
    for inputs, outputs in zip([1, *channels[:-2]], channels[:-1]):
        layers += [nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs), nn.MaxPool3d(2, 2), nn.ReLU()]
    layers += [nn.Conv3d(channels[-2], channels[-1], 1), nn.BatchNorm3d(channels[-1]), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool3d([1, 2, 1]), nn.Dropout(0.5), nn.Conv3d(channels[-1], bins, 1))


def test_sfcn_with_a_head_over_bins_gives_the_numbers_of_its_layers():
    peer = disturb_norms(sfcn_of_standard_layers([8, 16, 32, 64, 64, 16], 40))
    own, head = SFCN(width=0.25).eval(), nn.Linear(16, 40)
    *tensors, weight, bias = by_order(peer)
    load_by_order(own, tensors)
    head.load_state_dict({"weight": weight.flatten(1), "bias": bias})
    volumes = images_of((1, 32, 64, 40))
    with torch.no_grad():
        torch.testing.assert_close(head(own(volumes)), peer(volumes).flatten(1), rtol=1e-5, atol=1e-5)


def test_a_base_vision_transformer_has_the_parameters_of_timms():
    import timm

    with torch.device("meta"):
        peer = timm.create_model("vit_base_patch16_224", num_classes=0)
        own = ViT(dims=2, qkv_bias=True, input_shape=(3, 224, 224))
    assert count(own) == count(peer) - 768  # the position of the class token, which is part of the token here


TIMM = {
    "attn.qkv": "attn.qkv",
    "attn.out_proj": "attn.proj",
    "mlp.linear1": "mlp.fc1",
    "mlp.linear2": "mlp.fc2",
    "norm1": "norm1",
    "norm2": "norm2",
}
"""Layers of a block here -> in timm."""


def test_a_2d_vision_transformer_gives_timms_numbers():
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}
    made = VisionTransformer(img_size=(32, 40), **sizes)
    peer = disturb_norms(made).state_dict()
    as_timm = {"patch_size": 8, "qkv_bias": True, "norm_eps": 1e-6, "input_shape": (3, 32, 40)}
    own = ViT(dims=2, hidden_size=24, layers=2, heads=3, **as_timm).eval()
    weights = {f"norm.{kind}": peer[f"norm.{kind}"] for kind in ("weight", "bias")}
    for number in range(2):
        for here, there in TIMM.items():
            for kind in ("weight", "bias"):
                weights[f"layers.{number}.{here}.{kind}"] = peer[f"blocks.{number}.{there}.{kind}"]
    for kind in ("weight", "bias"):
        weights[f"patch_embedding.patch_embeddings.{kind}"] = peer[f"patch_embed.proj.{kind}"]
    weights["patch_embedding.position_embeddings"] = peer["pos_embed"][:, 1:]
    weights["patch_embedding.cls_token"] = peer["cls_token"] + peer["pos_embed"][:, :1]
    own.load_state_dict(weights)
    images = images_of((3, 32, 40))
    with torch.no_grad():
        torch.testing.assert_close(own(images), made.forward_features(images)[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", ["learnable", "sincos"])
def test_a_3d_vision_transformer_gives_monais_numbers_and_pads_with_zeros(position):
    from monai.networks.nets import ViT as Peer

    sizes = {"hidden_size": 24, "mlp_dim": 96, "num_layers": 2, "num_heads": 4, "pos_embed_type": position}
    peer = disturb_norms(Peer(1, (24, 16, 16), 8, **sizes))
    arguments = {"hidden_size": 24, "layers": 2, "heads": 4, "patch_size": 8, "position": position}
    own = ViT(**arguments, pooling="mean", input_shape=(1, 23, 15, 16)).eval()
    names = [name for name in peer.state_dict() if "norm_cross_attn" not in name]
    own.load_state_dict({name.replace("blocks.", "layers."): peer.state_dict()[name] for name in names})
    volumes = images_of((1, 23, 15, 16))
    padded = torch.zeros(2, 1, 24, 16, 16)
    padded[:, :, :23, :15] = volumes
    with torch.no_grad():
        tokens = peer(padded)[0]
        torch.testing.assert_close(own(volumes), tokens.mean(dim=1), rtol=1e-5, atol=1e-5)
        own.pooling = "first"
        torch.testing.assert_close(own(volumes), tokens[:, 0], rtol=1e-5, atol=1e-5)
    assert own.maps(volumes).shape == (2, 24, 3, 2, 2)


def test_fixed_positions_do_not_train():
    encoder = ViT(hidden_size=24, layers=1, heads=4, position="sincos", input_shape=(1, 16, 16, 16))
    assert "patch_embedding.position_embeddings" in encoder.state_dict()
    assert "patch_embedding.position_embeddings" not in dict(encoder.named_parameters())


def test_a_vision_transformer_refuses_images_of_another_size_and_arguments_that_do_not_fit():
    encoder = ViT(dims=2, hidden_size=24, layers=1, heads=4, input_shape=(1, 32, 32))
    with pytest.raises(InputError, match="built for images of 32x32, these have 32x48"):
        encoder(torch.zeros(1, 1, 32, 48))
    with pytest.raises(InputError) as raised:
        ViT(dims=3, hidden_size=50, heads=12, patch_size=[8, 8], position="sincos", input_shape=(1, 32, 32, 32))
    assert len(raised.value.problems) == 3


def test_a_2d_swin_gives_torchvisions_numbers_with_its_parameters_in_order():
    from torchvision.models.swin_transformer import SwinTransformer

    peer = SwinTransformer([2, 2], 12, [2, 2, 2, 2], [3, 6, 12, 24], [4, 4], stochastic_depth_prob=0.0).features
    peer[0][2] = nn.Identity()  # a norm after the embedding, which MONAI leaves out
    own = Swin(dims=2, feature_size=12, window_size=4, in_channels=3).eval()
    own.layers4[0].downsample = None  # a merging after the last stage, which torchvision leaves out
    disturb_norms(peer)
    with torch.no_grad():
        for mine, theirs in zip(own.parameters(), peer.parameters(), strict=True):
            mine.copy_(theirs)
        images = images_of((3, 64, 72))
        for level, stop in zip(own.levels(images), (1, 3, 5, 7, 8), strict=True):
            expected = peer[:stop](images)
            expected = nn.functional.layer_norm(expected, expected.shape[-1:]).permute(0, 3, 1, 2)
            torch.testing.assert_close(level, expected, rtol=1e-4, atol=2e-5)


def test_the_3d_swin_has_the_tensors_and_numbers_of_swinunetrs_encoder():
    from monai.networks.nets import SwinUNETR

    peer = disturb_norms(SwinUNETR(in_channels=1, out_channels=2, feature_size=12).swinViT)
    own = Swin(feature_size=12).eval()
    own.load_state_dict(peer.state_dict())
    volumes = images_of((1, 32, 40, 33), number=1)
    with torch.no_grad():
        torch.testing.assert_close(own(volumes), peer(volumes)[4].mean(dim=(2, 3, 4)), rtol=1e-5, atol=1e-5)


def test_merging_for_published_weights_leaves_two_neighbours_out():
    merging = RepeatedMerging(2)
    volumes = torch.arange(8.0).reshape(1, 2, 2, 2, 1).expand(-1, -1, -1, -1, 2).contiguous()
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()
    assert merging(volumes)[0, 0, 0, 0, ::2].tolist() == [0, 4, 2, 1, 5, 2, 1, 7]


def test_swin_refuses_arguments_that_do_not_fit():
    with pytest.raises(InputError) as raised:
        Swin(dims=2, window_size=[7, 7, 7], depths=[2, 2], heads=[5, 6, 12, 24])
    assert len(raised.value.problems) == 3


def test_a_network_of_few_channels_trains_on_slices_without_harm():
    """A strided 1x1 convolution of few channels in channels-last order corrupts memory, which only a process shows."""
    code = (
        "import torch; from tlimb.architectures.build import build_network\n"
        "spec = {'class_path': 'ResNet', 'init_args': {'depth': 10, 'dims': 2, 'width': 0.0625}}\n"
        "network = build_network(spec, (1, 40, 48), {'y': 2}, 0)\n"
        "for _ in range(8): network(torch.randn(16, 1, 40, 48))['y'].square().mean().backward()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120).returncode == 0
