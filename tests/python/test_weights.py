"""Weights from elsewhere: every kind of file, translated, met by name and shape, told in a report, equal to the peer."""

import json
import zipfile

import pytest
import timm
import torch
import torchvision
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import ViT as MonaiViT
from monai.networks.nets import resnet as monai_resnet
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from training_jobs import stage

from tlimb.architectures.densenet import DenseNet
from tlimb.architectures.network import Network
from tlimb.architectures.resnet import ResNet
from tlimb.architectures.sfcn import SFCN
from tlimb.architectures.vit import ViT
from tlimb.config import Weights
from tlimb.errors import InputError
from tlimb.scenarios.start import load_start
from tlimb.weights.checkpoint import read_checkpoint
from tlimb.weights.commands import weights_command
from tlimb.weights.kinds import file_problems, map_problems
from tlimb.weights.match import best_match, copy_matched, match, require_share
from tlimb.weights.names import translated
from tlimb.weights.shapes import reshaped


def stirred(network: nn.Module) -> nn.Module:
    """A network whose every number counts: norms with statistics, scales and shifts of their own; evaluated."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3), module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.2), module.bias.data.normal_(0, 0.3)
    return network.eval()


def filled(own: nn.Module, tensors: dict, share: float = 1.0) -> nn.Module:
    """An encoder with what matches of some tensors, which must be everything."""
    matched = best_match(own, tensors)
    assert matched.report.share == pytest.approx(share) and not matched.report.missing
    copy_matched(own, matched)
    return own.eval()


def require_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_imagenet_resnet_gives_for_one_channel_what_it_gives_for_a_grey_picture():
    peer = stirred(torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]))
    own = filled(ResNet(10, dims=2), peer.state_dict())
    slices = torch.randn(2, 1, 48, 56)
    peer.fc = nn.Identity()
    require_equal(own(slices), peer(slices.expand(-1, 3, -1, -1)))


@torch.no_grad()
def test_a_radimagenet_resnet_whose_layers_are_numbered_gives_the_same_features():
    peer = stirred(torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]))
    numbered = nn.Sequential()
    numbered.backbone = nn.Sequential(*list(peer.children())[:9])
    state, slices = numbered.state_dict(), torch.randn(2, 1, 48, 56)
    report = best_match(ResNet(10, dims=2), state).report
    assert report.map == "radimagenet-resnet" and not report.missing and not report.unexpected
    peer.fc = nn.Identity()
    require_equal(filled(ResNet(10, dims=2), state)(slices), peer(slices.expand(-1, 3, -1, -1)))


@torch.no_grad()
def test_an_imagenet_resnet_of_timm_fills_an_encoder_of_several_equal_channels():
    peer = stirred(timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), num_classes=0))
    own = ResNet(10, dims=2, in_channels=4)
    matched = best_match(own, peer.state_dict())
    copy_matched(own, matched)
    slices = torch.randn(2, 1, 40, 40)
    require_equal(own.eval()(slices.expand(-1, 4, -1, -1)), peer(slices.expand(-1, 3, -1, -1)))
    assert matched.report.reshaped == {"conv1.weight": ["folded"]}


@torch.no_grad()
def test_a_densenet_of_torchvision_loads_under_its_old_names_and_its_new_ones():
    peer = stirred(torchvision.models.DenseNet(8, (6, 12, 24, 16), 16))
    state, slices = peer.state_dict(), torch.randn(1, 1, 40, 40)
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): one for name, one in state.items()}
    peer.classifier = nn.Identity()
    own = filled(DenseNet(121, dims=2, width=0.25), old)
    require_equal(own(slices), peer(slices.expand(-1, 3, -1, -1)))
    assert all(torch.equal(one, own.state_dict()[name]) for name, one in best_match(own, state).tensors.items())


PAPER = {"qkv_bias": True, "norm_eps": 1e-6}


def small_vit(**arguments) -> ViT:
    sizes = {"hidden_size": 48, "layers": 2, "heads": 4, "patch_size": 8, **arguments}
    return ViT(dims=2, input_shape=(1, 32, 40), **sizes)


@torch.no_grad()
@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_a_vision_transformer_of_an_image_library_loads_with_its_class_token(source):
    torch.manual_seed(2)
    if source == "timm":
        sizes = {"img_size": (32, 40), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 0}
        peer, token = timm.models.VisionTransformer(**sizes), "cls_token"
    else:
        peer, token = torchvision.models.VisionTransformer(40, 8, 2, 4, 48, 192), "class_token"
        peer.heads = nn.Identity()
    getattr(peer, token).data.normal_()
    own = filled(small_vit(**PAPER) if source == "timm" else square_vit(), peer.state_dict())
    slices = torch.randn(2, 1, *((32, 40) if source == "timm" else (40, 40)))
    require_equal(own(slices), peer.eval()(slices.expand(-1, 3, -1, -1)))


def square_vit() -> ViT:
    return ViT(dims=2, input_shape=(1, 40, 40), hidden_size=48, layers=2, heads=4, patch_size=8, **PAPER)


@torch.no_grad()
def test_a_vision_transformer_of_monai_under_a_wrapper_as_brainiac_has_it_gives_the_same_tokens():
    peer = MonaiViT(1, (32, 40), (8, 8), hidden_size=48, mlp_dim=192, num_layers=2, num_heads=4, spatial_dims=2).eval()
    used = {f"backbone.{name}": one for name, one in peer.state_dict().items() if "cross_attn" not in name}
    own, slices = filled(small_vit(pooling="first"), used), torch.randn(2, 1, 32, 40)
    require_equal(own(slices), peer(slices)[0][:, 0])


@torch.no_grad()
def test_a_medicalnet_file_loads_whole_into_a_3d_resnet(tmp_path):
    width = [8, 16, 32, 64]
    peer = monai_resnet.ResNet("basic", [1, 1, 1, 1], width, 3, 1, 7, 2, feed_forward=False, bias_downsample=False)
    peer = stirred(peer)
    state = {f"module.{name}": one for name, one in peer.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "resnet_10_23dataset.pth")
    matched = best_match(ResNet(10, width=0.125), read_checkpoint(tmp_path / "resnet_10_23dataset.pth"))
    assert matched.report.map == "medicalnet" and not matched.report.missing and not matched.report.unexpected
    volumes = torch.randn(1, 1, 32, 32, 32)
    require_equal(filled(ResNet(10, width=0.125), state)(volumes), peer(volumes))


@torch.no_grad()
def test_biases_before_batch_norm_which_the_encoder_lacks_are_taken_over_by_the_norm():
    peer = stirred(monai_resnet.ResNet("bottleneck", [1, 1, 1, 1], [8, 16, 32, 64], 2, 1, feed_forward=False))
    biases = [name for name in peer.state_dict() if name.endswith("downsample.0.bias")]
    for name in biases:
        peer.get_parameter(name).data.normal_()
    own = monai_resnet.ResNet(
        "bottleneck", [1, 1, 1, 1], [8, 16, 32, 64], 2, 1, feed_forward=False, bias_downsample=False
    )
    assert len(biases) == 4
    slices = torch.randn(2, 1, 32, 32)
    require_equal(filled(own, peer.state_dict())(slices), peer(slices))
    assert not best_match(own, peer.state_dict()).report.unexpected


@torch.no_grad()
def test_a_uk_biobank_sfcn_by_its_published_names_computes_what_its_code_does():
    torch.manual_seed(3)
    channels, state = (1, 4, 8, 16, 32, 32, 8), {}
    for i in range(6):
        size = 3 if i < 5 else 1
        layer = f"module.feature_extractor.conv_{i}"
        state[f"{layer}.0.weight"] = torch.randn(channels[i + 1], channels[i], size, size, size) / (size**3 * channels[i]) ** 0.5
        for name in ("0.bias", "1.weight", "1.bias", "1.running_mean"):
            state[f"{layer}.{name}"] = torch.randn(channels[i + 1])
        state[f"{layer}.1.running_var"] = torch.rand(channels[i + 1]) + 0.5
        state[f"{layer}.1.num_batches_tracked"] = torch.tensor(7)
    state |= {"module.classifier.conv_6.weight": torch.randn(40, 8, 1, 1, 1), "module.classifier.conv_6.bias": torch.randn(40)}
    images = made = torch.randn(1, 1, 64, 32, 32)
    for i in range(6):
        of = {name: state[f"module.feature_extractor.conv_{i}.{name}"] for name in ("0.weight", "0.bias", "1.running_mean", "1.running_var", "1.weight", "1.bias")}
        made = F.conv3d(made, of["0.weight"], of["0.bias"], padding=1 if i < 5 else 0)
        made = F.batch_norm(made, of["1.running_mean"], of["1.running_var"], of["1.weight"], of["1.bias"])
        made = F.relu(F.max_pool3d(made, 2) if i < 5 else made)
    own = filled(SFCN(width=0.125, input_shape=(1, 64, 32, 32)), state)
    require_equal(own(images), made.mean((2, 3, 4)))
    report = best_match(own, state).report
    assert report.map == "sfcn" and report.unexpected == ["module.classifier.conv_6.weight", "module.classifier.conv_6.bias"]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_a_folded_convolution_is_exact_for_images_whose_channels_are_alike(given_channels, channels, seed):
    torch.manual_seed(seed)
    weight, slices = torch.randn(3, given_channels, 3, 3), torch.randn(1, 1, 6, 6)
    folded, how = reshaped(weight, torch.Size((3, channels, 3, 3)), is_first=True)
    found, expected = (F.conv2d(slices.expand(-1, w.shape[1], -1, -1), w) for w in (folded, weight))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert how == ([] if given_channels == channels else ["folded"])


def test_an_inflated_convolution_gives_for_equal_slices_what_it_gave_for_the_slice():
    weight, axial = torch.randn(3, 2, 3, 5), torch.randn(1, 2, 8, 9)
    inflated, how = reshaped(weight, torch.Size((3, 2, 3, 5, 7)), is_first=False)
    found = F.conv3d(axial.unsqueeze(-1).expand(-1, -1, -1, -1, 11), inflated)
    torch.testing.assert_close(found, F.conv2d(axial, weight).unsqueeze(-1).expand_as(found), rtol=1e-4, atol=1e-5)
    assert how == ["inflated"]


def test_only_the_first_convolution_is_folded_and_other_shapes_are_no_match():
    assert reshaped(torch.zeros(8, 3, 3, 3), torch.Size((8, 1, 3, 3)), is_first=False) is None
    assert reshaped(torch.zeros(8, 3, 5, 5), torch.Size((8, 3, 3, 3)), is_first=True) is None
    tensor, how = reshaped(torch.arange(8.0).reshape(4, 2, 1, 1, 1), torch.Size((4, 2)), is_first=False)
    assert how == ["squeezed"] and tensor.tolist() == torch.arange(8.0).reshape(4, 2).tolist()


def test_imagenet_slices_inflate_into_a_3d_resnet_and_the_report_counts_them():
    with torch.device("meta"):
        own = ResNet(18, dims=3)
        report = best_match(own, torchvision.models.resnet18().state_dict()).report
    convolutions = sum(isinstance(module, nn.Conv3d) for module in own.modules())
    assert report.share == 1 and f"{convolutions} inflated" in str(report) and "1 folded" in str(report)
    assert report.reshaped["conv1.weight"] == ["inflated", "folded"] and report.map == "resnet-imagenet"


def narrow() -> ResNet:
    return ResNet(10, dims=2, width=0.125)


def test_a_checkpoint_of_lightning_loads_and_its_counters_and_optimiser_do_not_count(tmp_path):
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.ModuleDict({"backbone": narrow(), "head": nn.Linear(64, 3)})

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    module, path = Module(), tmp_path / "last.ckpt"
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    report = best_match(narrow(), read_checkpoint(path)).report
    assert report.prefix == "net.backbone." and report.share == 1 and not report.missing
    assert report.unexpected == ["net.head.weight", "net.head.bias"]


class Anything:
    """A class of somebody's own."""


def test_python_objects_in_a_checkpoint_are_refused_with_advice_and_never_loaded(tmp_path):
    torch.save({"state_dict": narrow().state_dict(), "hyper_parameters": Anything()}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"Python objects \(\S*Anything\).*torch.save\(whole\['state_dict'\]"):
        read_checkpoint(tmp_path / "a.ckpt")
    (tmp_path / "b.pt").write_bytes(b"no file of torch")
    with pytest.raises(InputError, match="b.pt: no readable weights"):
        read_checkpoint(tmp_path / "b.pt")
    torch.save([1, 2], tmp_path / "c.pt")
    with pytest.raises(InputError, match="holds no tensors by name; found list"):
        read_checkpoint(tmp_path / "c.pt")


def test_a_monai_bundle_is_read_from_its_folder_and_from_its_zip(tmp_path):
    bundle, state = tmp_path / "bundle", narrow().state_dict()
    (bundle / "models").mkdir(parents=True)
    torch.save(state, bundle / "models" / "model.pt")
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        archive.write(bundle / "models" / "model.pt", "bundle/models/model.pt")
    save_file(state, tmp_path / "plain.safetensors")
    for path in (bundle, tmp_path / "bundle.zip", tmp_path / "plain.safetensors"):
        assert all(torch.equal(one, state[name]) for name, one in read_checkpoint(path).items())
        assert file_problems(path, {"path": str(path), "map": None}, "stages[0].weights") == []


def test_too_little_is_an_error_that_names_the_nearest_and_copies_nothing(tmp_path):
    own, before = narrow(), narrow().state_dict()
    own.load_state_dict(before)
    renamed = {name.replace("layer", "stage"): tensor + 1 for name, tensor in before.items()}
    save_file(renamed, tmp_path / "w.safetensors")
    asked = start(own, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as caught:
        asked()
    text = str(caught.value)
    assert "at least 90% must match" in text and "layer1.0.conv1.weight: missing in the file (did you mean 'stage1.0.conv1.weight'?)" in text
    assert all(torch.equal(own.state_dict()[name], before[name]) for name in before)
    facts = start(own, tmp_path / "w.safetensors", map={"^stage": "layer"})()
    assert facts["report"]["share"] == 1 and torch.equal(own.conv1.weight, before["conv1.weight"] + 1)


def start(encoder: nn.Module, path, **weights):
    """A call of load_start that fills `encoder` from a file."""
    asked = Weights(path="the file", **weights).model_dump()
    of = stage("finetune", "age") | {"weights": asked}
    files = {"the file": path, **({asked["map"]: path.parent / asked["map"]} if isinstance(asked["map"], str) else {})}
    return lambda: load_start(Network(encoder, {}), of, None, files)


def test_a_part_takes_what_its_wrapper_does_not_and_the_message_says_so(tmp_path):
    save_file(narrow().state_dict(), tmp_path / "w.safetensors")
    whole = nn.Sequential()
    whole.add_module("slice_encoder", narrow())
    whole.add_module("head", nn.Linear(64, 1000))
    with pytest.raises(InputError, match='weights.part "slice_encoder" would get 100%'):
        start(whole, tmp_path / "w.safetensors")()
    with pytest.raises(InputError, match="no part 'slice_encodr'.*did you mean 'slice_encoder'"):
        start(whole, tmp_path / "w.safetensors", part="slice_encodr")()
    facts = start(whole, tmp_path / "w.safetensors", part="slice_encoder")()
    assert facts["part"] == "slice_encoder" and facts["report"]["share"] == 1


@pytest.mark.parametrize("strategy", ["frozen", "direct"])
def test_an_encoder_that_never_trains_must_be_given_whole(tmp_path, strategy):
    given = {name: one for name, one in narrow().state_dict().items() if name != "bn1.weight"}
    save_file(given, tmp_path / "w.safetensors")
    of = stage("finetune", "age") | {"weights": Weights(path="w").model_dump()}
    files = {"w": tmp_path / "w.safetensors"}
    assert 0.9 < load_start(Network(narrow(), {}), of, None, files)["report"]["share"] < 1
    own, still = narrow(), of | {"strategy": strategy}
    before = {name: one.clone() for name, one in own.state_dict().items()}
    told = f"with strategy '{strategy}' all must match, for what is missing would stay random"
    with pytest.raises(InputError, match=f"{told}(.|\n)*bn1.weight: missing in the file"):
        load_start(Network(own, {}), still, None, files)
    assert all(torch.equal(one, before[name]) for name, one in own.state_dict().items())
    part = still | {"weights": Weights(path="w", part="layer1").model_dump()}
    with pytest.raises(InputError, match="weights.part: with strategy .* all of the encoder but 'layer1' would stay"):
        load_start(Network(narrow(), {}), part, None, files)


def test_a_map_may_send_a_published_head_to_the_head_of_a_target(tmp_path):
    state = narrow().state_dict() | {"classifier.weight": torch.randn(40, 64, 1, 1), "classifier.bias": torch.randn(40)}
    save_file(state, tmp_path / "w.safetensors")
    of = stage("finetune", "age") | {"weights": Weights(path="w", map={"^classifier": "heads.age"}).model_dump()}
    network = Network(narrow(), {"age": nn.Linear(64, 40)})
    load_start(network, of, None, {"w": tmp_path / "w.safetensors"})
    assert torch.equal(network.head("age").weight, state["classifier.weight"].squeeze())
    with pytest.raises(InputError, match="names the head 'age'.*did you mean 'ages'"):
        load_start(Network(narrow(), {"ages": nn.Linear(64, 40)}), of, None, {"w": tmp_path / "w.safetensors"})
    with pytest.raises(InputError, match="40x64x1x1 in the file, 20x64 in the network"):
        load_start(Network(narrow(), {"age": nn.Linear(64, 20)}), of, None, {"w": tmp_path / "w.safetensors"})


@torch.no_grad()
def test_positions_are_interpolated_for_another_grid_and_stay_where_they_were():
    own, other = small_vit(pooling="mean"), ViT(2, hidden_size=48, layers=2, heads=4, patch_size=8, pooling="mean", input_shape=(1, 64, 64))
    ramp = torch.linspace(0, 7, 8)[:, None].expand(8, 8).reshape(1, 64, 1).expand(1, 64, 48)
    matched = best_match(own, other.state_dict() | {"patch_embedding.position_embeddings": ramp})
    found = matched.tensors["patch_embedding.position_embeddings"].reshape(4, 5, 48)
    assert matched.report.reshaped == {"patch_embedding.position_embeddings": ["resized"]} and matched.report.share == 1
    assert torch.allclose(found[:, 0, 0], found[:, 4, 7], atol=1e-5)
    assert torch.allclose(found[1:3, 0, 0], torch.tensor([2.5, 4.5]), atol=0.1)


def test_a_map_is_a_file_or_pairs_and_names_may_not_become_one(tmp_path):
    names = ["a.weight", "b.weight", "head.weight"]
    assert translated(names, ((r"^a\.", "x."), (r"^head\.", None))) == {"x.weight": "a.weight", "b.weight": "b.weight"}
    with pytest.raises(InputError, match="makes 'b.weight' of both"):
        translated(names, (("^a", "b"),))
    (tmp_path / "map.json").write_text(json.dumps([["^encoder_q\\.", ""], ["^queue", None]]))
    save_file({f"encoder_q.{name}": one for name, one in narrow().state_dict().items()}, tmp_path / "w.safetensors")
    assert start(narrow(), tmp_path / "w.safetensors", map="map.json")()["report"]["share"] == 1


def test_what_is_wrong_with_a_map_or_a_path_is_told_without_reading_weights(tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps({"(": "x", "a": "\\2", "b": 3}))
    found = map_problems(str(tmp_path / "bad.json"), "stages[0].weights.map")
    assert len(found) == 3 and all("bad.json" in problem.where for problem in found)
    assert "did you mean 'medicalnet'" in str(map_problems("medicalnets", "stages[0].weights.map")[0])
    assert "file not found" in str(map_problems("none.json", "w.map")[0])
    (tmp_path / "weights.pth").touch(), (tmp_path / "weights.h5").touch(), (tmp_path / "empty").mkdir()
    told = {
        "weigths.pth": "does not exist \\(did you mean 'weights.pth'\\?\\)",
        "weights.h5": "ends with '.h5'; expected one of .pt",
        "empty": "neither a folder of tlimb .* nor a MONAI bundle",
    }
    for name, text in told.items():
        (problem,) = file_problems(tmp_path / name, {"path": name, "map": None}, "stages[0].weights")
        assert problem.where == "stages[0].weights.path"
        with pytest.raises(InputError, match=text):
            raise InputError([problem])


def test_batch_norm_counters_are_nobodys_business():
    own = narrow()
    tensors = {name: one for name, one in own.state_dict().items() if "num_batches" not in name}
    report = match(own, tensors | {"bn1.num_batches_tracked": torch.tensor(1)}).report
    assert not report.missing and not report.unexpected and report.share == 1
    without_means = {name: one for name, one in tensors.items() if "running_mean" not in name}
    assert match(own, without_means).report.share == 1 and "bn1.running_mean" in match(own, without_means).report.missing


def test_batch_norms_without_their_statistics_are_no_whole_network_whatever_the_share(tmp_path):
    peer = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    bare = {name: one for name, one in peer.named_parameters()}
    matched = best_match(ResNet(10, dims=2), bare)
    assert matched.report.share == 1
    told = r"w.pt: has weights of batch norms without what they divide by: bn1.running_mean, .* and \d+ more"
    with pytest.raises(InputError, match=told):
        require_share(matched, 0.0, "w.pt", "the encoder", {})
    require_share(best_match(ResNet(10, dims=2), peer.state_dict()), 1.0, "w.pt", "the encoder", {})
    save_file({name: one for name, one in narrow().named_parameters()}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="without what they divide by"):
        start(narrow(), tmp_path / "w.safetensors", minimum=0.1)()


def test_a_tensor_that_a_matched_layer_needs_is_never_dropped(tmp_path):
    sizes = {"img_size": (32, 40), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 3}
    state = timm.models.VisionTransformer(**sizes).state_dict()
    matched = best_match(small_vit(), state)
    assert matched.report.share == 1 and matched.report.lost == ["layers.0.attn.qkv.bias", "layers.1.attn.qkv.bias"]
    with pytest.raises(InputError, match=r'no place for: layers.0.attn.qkv.bias, layers.1.attn.qkv.bias \(.*"qkv_bias": true'):
        require_share(matched, 0.0, "w.pt", "the encoder", {})
    whole = best_match(small_vit(**PAPER), state)
    assert whole.report.unexpected == ["head.weight", "head.bias"] and not whole.report.lost
    require_share(whole, 1.0, "w.pt", "the encoder", {})
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="its layers need"):
        start(small_vit(), tmp_path / "w.safetensors", minimum=0.1)()


def test_of_two_networks_in_a_file_none_is_chosen_by_its_place(tmp_path):
    query, key = ({f"encoder_{of}.{name}": one for name, one in narrow().state_dict().items()} for of in "qk")
    for state in (query | key, key | query):
        matched = best_match(narrow(), state)
        with pytest.raises(InputError, match=r"more than one network.*'encoder_[qk].', 'encoder_[qk].' \(keep one, .*encoder_[qk]\\\\"):
            require_share(matched, 0.9, "w.pt", "the encoder", {})
    state = narrow().state_dict()
    twice = {f"{of}.{name}": one for of in ("model", "net") for name, one in state.items()}
    within = {f"model.{name}": one for name, one in state.items()} | {f"model.inner.{name}": -one for name, one in state.items()}
    for harmless in (twice, within):
        require_share(best_match(narrow(), harmless), 1.0, "w.pt", "the encoder", {})
    save_file(query | key, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="more than one network"):
        start(narrow(), tmp_path / "w.safetensors")()
    asked = start(narrow(), tmp_path / "w.safetensors", map={"^encoder_k\\.": None})
    assert asked()["report"]["prefix"] == "encoder_q."


def test_files_that_torch_cannot_read_are_told_plainly(tmp_path):
    (tmp_path / "text.pt").write_text("hello\n"), (tmp_path / "empty.pt").touch()
    torch.save(narrow().state_dict(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:2000])
    for name in ("text.pt", "empty.pt", "cut.pt"):
        with pytest.raises(InputError, match=f"{name}: no readable weights: it is no file of torch, or a damaged one"):
            read_checkpoint(tmp_path / name)
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "program.pt")
    with pytest.raises(InputError, match="program.pt is a program|program.pt: is a program with weights") as caught:
        read_checkpoint(tmp_path / "program.pt")
    assert "weights_only" not in str(caught.value) and "models/model.pt" in str(caught.value)


def test_the_command_tells_what_would_be_refused_and_what_is_no_architecture(tmp_path):
    save_file(dict(narrow().named_parameters()), tmp_path / "w.safetensors")
    shown = ["--architecture", '{"class_path": "ResNet", "init_args": {"depth": 10, "dims": 2, "width": 0.125}}', "--shape", "1,32,32"]
    found = CliRunner().invoke(weights_command, [str(tmp_path / "w.safetensors"), *shown])
    assert found.exit_code == 0 and "would be refused: the file: has weights of batch norms" in found.output
    for written, told in {
        '{"class": "ResNet"}': ("--architecture.class: no such key (did you mean 'class_path'?)", "--architecture.class_path: missing"),
        '{"class_path": 3, "init_args": []}': ("class_path: found 3", "init_args: expected an object, found []"),
    }.items():
        found = CliRunner().invoke(weights_command, [str(tmp_path / "w.safetensors"), "--architecture", written, "--shape", "1,32,32"])
        assert found.exit_code == 1 and all(text in found.output for text in told), found.output
