"""Networks of slices against the formulas of their papers, the shapes of their published code, and timm."""

import numpy as np
import pytest
import timm
import torch
from encoder_checks import build, check_encoder, images_of
from torch.nn import functional

from tlimb.architectures.build import build_network
from tlimb.architectures.position import PositionEncoding, sinusoids
from tlimb.architectures.slice_cnn import SliceCNN
from tlimb.architectures.slice_set import SliceSet
from tlimb.architectures.timm_models import Timm
from tlimb.errors import InputError
from tlimb.weights.match import best_match, copy_matched

PAPER = (1, 91, 109, 91)
SMALL_CNN = {"class_path": "SliceCNN", "init_args": {"channels": [4, 6]}}
SMALL_RESNET = {"class_path": "ResNet", "init_args": {"depth": 10, "width": 0.0625}}
VOLUME = (1, 9, 12, 10)


def paper_parameters(class_path, **init_args):
    """Millions of parameters with the head of one output, at the paper's 91x109x91 voxels."""
    with torch.device("meta"):
        network = build_network({"class_path": class_path, "init_args": init_args}, PAPER, {"age": 1}, 0)
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("axis", ["sagittal", "coronal", "axial"])
@pytest.mark.parametrize("slice_encoder", [SMALL_CNN, SMALL_RESNET])
def test_slice_sets_hold_what_every_encoder_must(axis, slice_encoder):
    position = {"sagittal": "trainable", "coronal": "sinusoidal", "axial": "none"}[axis]
    arguments = {"slice_encoder": slice_encoder, "axis": axis, "position": position, "attention_heads": 2}
    check_encoder("SliceSet", [VOLUME, (1, 11, 10, 13)], **arguments)


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_slice_sets_without_attention_hold_what_every_encoder_must(aggregation):
    arguments = {"slice_encoder": SMALL_CNN, "aggregation": aggregation, "position_at": "after", "width": 8}
    check_encoder("SliceSet", [VOLUME, (1, 11, 10, 13)], **arguments)


def test_plain_networks_and_the_recurrent_one_hold_what_every_encoder_must():
    check_encoder("SliceCNN", [(2, 12, 10), (2, 9, 16)], channels=[4, 6])
    check_encoder("CNN3D", [(1, 12, 8, 10), (1, 8, 9, 16)], channels=[4, 6])
    check_encoder("SliceLSTM", [VOLUME, (1, 11, 10, 13)], slice_encoder=SMALL_CNN, axis="coronal", state=8)


@pytest.mark.parametrize(
    ("class_path", "init_args", "published"),
    [
        ("SliceSet", {"aggregation": "mean"}, 998_625),
        ("SliceSet", {"aggregation": "max", "position": "trainable"}, 1_016_097),
        ("SliceSet", {}, 1_001_889),
        ("SliceSet", {"position": "trainable", "axis": "coronal"}, 1_022_817),
        ("SliceSet", {"aggregation": "mean", "slice_encoder": "ResNet"}, 11_195_105),
        ("SliceSet", {"aggregation": "mean", "slice_encoder": "ResNet", "position": "trainable"}, 11_203_841),
        (
            "SliceSet",
            {"aggregation": "mean", "slice_encoder": {"class_path": "ResNet", "init_args": {"depth": 50}}},
            23_575_777,
        ),
        ("SliceLSTM", {}, 1_070_403),
        ("CNN3D", {}, 2_948_801),
    ],
)
def test_networks_have_as_many_parameters_as_the_published_code(class_path, init_args, published):
    assert paper_parameters(class_path, **init_args) == published


def test_a_published_state_dict_fits_by_order_and_shape():
    shapes = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 128), (128, 256), (256, 256)):
        shapes += [(outputs, inputs, 3, 3), (outputs,)]
    shapes += [(64, 256, 1, 1), (64,), (1, 64, 91, 1, 1), (64, 91, 1, 1), (64, 91, 1, 1), (32, 64, 1, 1), (32,)]
    shapes += [(1, 32), (32, 32), (32,), (32, 32), (32,), (32,), (32,), (32, 32), (32,), (64, 32), (64,)]
    with torch.device("meta"):
        encoder = SliceSet(position="trainable", input_shape=PAPER)
    assert [tuple(tensor.shape) for tensor in encoder.state_dict().values()] == shapes
    with torch.device("meta"):
        encoder = SliceSet(position="trainable", slice_encoder="ResNet", axis="axial", input_shape=PAPER)
    tail = [tuple(tensor.shape) for tensor in encoder.state_dict().values()][-16:-11]
    assert tail == [(32, 512), (32,), (1, 32, 1, 1, 91), (32, 1, 1, 91), (32, 1, 1, 91)]


def formula(tensors, volume, axis, position, aggregation, heads):
    """A slice set network with a plain slice encoder, slice by slice from its paper's equations and its parameters in
    their order; returns features (64,) and attention (heads, K)."""
    rows, tensors = [], list(tensors)
    convolutions, rest = tensors[:6], tensors[6:]
    encoding, scale, shift = rest[:3] if position else (None, None, None)
    projection, *rest = rest[3:] if position else rest
    for index in range(volume.shape[axis]):
        image = torch.from_numpy(np.take(volume.numpy(), index, axis))[None, None]
        for number in range(0, 6, 2):
            width = convolutions[number].shape[-1]
            image = functional.conv2d(image, convolutions[number], convolutions[number + 1], padding=width // 2)
            mean, variance = image.mean((2, 3), keepdim=True), image.var((2, 3), keepdim=True, correction=0)
            image = (image - mean) / (variance + 1e-5) ** 0.5
            image = (functional.max_pool2d(image, 2) if number < 4 else image).clamp(min=0)
        rows.append(image.mean((0, 2, 3)))
    rows = torch.stack(rows).numpy().astype(float)
    if position:
        rows = rows + encoding.squeeze().T.numpy()
        rows = (rows - rows.mean()) / np.sqrt(rows.var() + 1e-5)
        rows = rows * scale.squeeze().T.numpy() + shift.squeeze().T.numpy()
    weight, rest = projection.flatten(1).numpy(), [tensor.numpy().astype(float) for tensor in rest]
    rows = rows @ weight.T + rest[0]
    if aggregation != "attention":
        joined, attention, rest = getattr(rows, aggregation)(0), None, rest[1:]
    else:
        query, key, key_bias, value, value_bias, scale, shift, matrix, bias = rest[1:10]
        keys, values, size = rows @ key.T + key_bias, rows @ value.T + value_bias, rows.shape[1] // heads
        parts, attention, rest = [], [], rest[10:]
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            score = np.exp(keys[:, part] @ query[0, part] / np.sqrt(size))
            attention.append(score / score.sum())
            parts.append(attention[-1] @ values[:, part])
        joined = np.concatenate(parts)
        joined = (joined - joined.mean()) / np.sqrt(joined.var() + 1e-5) * scale + shift
        joined, attention = joined @ matrix.T + bias, np.stack(attention)
    return np.maximum(joined @ rest[0].T + rest[1], 0), attention


@pytest.mark.parametrize("axis", ["sagittal", "coronal", "axial"])
@pytest.mark.parametrize("position", ["trainable", "none"])
@pytest.mark.parametrize("aggregation", ["mean", "max", "attention"])
def test_a_slice_set_is_the_formula_of_its_paper(axis, position, aggregation):
    arguments = {"slice_encoder": SMALL_CNN, "axis": axis, "position": position, "aggregation": aggregation}
    encoder = build("SliceSet", VOLUME, attention_heads=2, **arguments).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    volumes, place = images_of(VOLUME), ["sagittal", "coronal", "axial"].index(axis)
    with torch.no_grad():
        features = encoder(volumes).numpy()
        for number, volume in enumerate(volumes[:, 0]):
            expected, attention = formula(
                encoder.state_dict().values(), volume, place, position != "none", aggregation, 2
            )
            np.testing.assert_allclose(features[number], expected, rtol=1e-4, atol=1e-5)
            if aggregation == "attention":
                np.testing.assert_allclose(encoder.slice_weights(volumes)[number], attention, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axis", ["sagittal", "coronal", "axial"])
def test_the_order_of_slices_matters_with_a_position_alone(axis):
    volumes, place = images_of(VOLUME), ["sagittal", "coronal", "axial"].index(axis) + 2
    for position, same in (("none", True), ("trainable", False), ("sinusoidal", False)):
        arguments = {"slice_encoder": SMALL_CNN, "axis": axis, "position": position}
        encoder = build("SliceSet", VOLUME, aggregation="mean", **arguments).eval()
        with torch.no_grad():
            assert torch.allclose(encoder(volumes), encoder(volumes.flip(place)), atol=1e-6) == same


def test_attention_to_slices_sums_to_one_and_other_aggregations_have_none():
    encoder = build("SliceSet", VOLUME, slice_encoder=SMALL_CNN, axis="axial", attention_heads=4)
    weights = encoder.slice_weights(images_of(VOLUME))
    assert weights.shape == (2, 4, 10)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 4))
    with pytest.raises(InputError, match="aggregation attention alone"):
        build("SliceSet", VOLUME, slice_encoder=SMALL_CNN, aggregation="max").slice_weights(images_of(VOLUME))


def test_what_follows_attention_can_be_the_texts_order_or_nothing():
    outputs = []
    for form in ("norm_linear", "linear_norm", "none"):
        encoder = build("SliceSet", VOLUME, slice_encoder=SMALL_CNN, feed_forward=form).eval()
        pool = encoder.aggregation
        embeddings = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
        joined = pool.weights(embeddings) @ pool.value(embeddings)
        if form == "none":
            expected = joined[:, 0]
        else:
            steps = [pool.norm, pool.linear] if form == "norm_linear" else [pool.linear, pool.norm]
            expected = steps[1](steps[0](joined[:, 0]))
        torch.testing.assert_close(pool(embeddings), expected)
        outputs.append(pool(embeddings))
    assert not torch.allclose(outputs[0], outputs[1])


def test_slices_reach_the_slice_encoder_whole_in_order_and_repeated_for_a_resnet():
    for slice_encoder, channels in ((SMALL_CNN, 1), (SMALL_RESNET, 3)):
        encoder = build("SliceSet", VOLUME, slice_encoder=slice_encoder, axis="coronal")
        volumes, seen = images_of(VOLUME), []
        encoder.slice_encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        encoder(volumes)
        assert seen[0].shape == (24, channels, 9, 10)
        for index in range(12):
            assert torch.equal(seen[0][12 + index], volumes[1, :, :, index].expand(channels, -1, -1))
    assert build("SliceSet", VOLUME, slice_encoder=SMALL_RESNET, repeat=1).slice_encoder.conv1.in_channels == 1
    assert build("SliceSet", (2, *VOLUME[1:]), slice_encoder=SMALL_RESNET).slice_encoder.conv1.in_channels == 2


def test_neighbouring_slices_can_be_the_channels_of_one():
    encoder, volumes, seen = build("SliceSet", VOLUME, slice_encoder=SMALL_RESNET, neighbours=3), images_of(VOLUME), []
    encoder.slice_encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    assert encoder(volumes).shape == (2, 64) and encoder.maps(volumes).shape == (2, 32, 7, 1, 1)
    for index in range(7):
        assert torch.equal(seen[0][7 + index], volumes[1, 0, index : index + 3])


@pytest.mark.parametrize("spec", [SMALL_CNN, SMALL_RESNET])
def test_a_slice_encoder_pretrained_alone_fills_the_part_and_gives_its_features_there(spec):
    dims = {"dims": 2} if spec is SMALL_RESNET else {}
    alone = build(spec["class_path"], (1, 12, 10), seed=1, **spec["init_args"], **dims).eval()
    encoder = build("SliceSet", VOLUME, slice_encoder=spec, width=None, aggregation="mean").eval()
    volumes = images_of(VOLUME)
    part = encoder.get_submodule("slice_encoder")
    assert list(part.state_dict()) == list(alone.state_dict())
    matched = best_match(part, alone.state_dict())
    assert matched.report.share == 1
    copy_matched(part, matched)
    with torch.no_grad():
        expected = alone(volumes.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 9))
        torch.testing.assert_close(encoder.maps(volumes).flatten(2), expected.transpose(1, 2))


def test_without_a_projection_positions_are_added_to_the_slice_encoders_features():
    arguments = {"slice_encoder": SMALL_RESNET, "width": None, "position": "trainable", "position_norm": False}
    encoder = build("SliceSet", VOLUME, aggregation="mean", **arguments).eval()
    volumes = images_of(VOLUME)
    with torch.no_grad():
        alone = encoder.slice_encoder(volumes[0].movedim(1, 0).repeat(1, 3, 1, 1))
        expected = alone + encoder.position.encoding.squeeze().T
        torch.testing.assert_close(encoder.maps(volumes)[0].flatten(1).T, expected)
    assert encoder.hidden.in_features == encoder.slice_encoder.features == 32


def test_sinusoids_are_those_of_attention_is_all_you_need():
    expected = np.zeros((7, 6))
    for place in range(7):
        for column in range(6):
            angle = place / 10000 ** (2 * (column // 2) / 6)
            expected[place, column] = np.sin(angle) if column % 2 == 0 else np.cos(angle)
    np.testing.assert_allclose(sinusoids(7, 6), expected, atol=1e-6)
    assert sinusoids(3, 5).shape == (3, 5)


def test_trainable_positions_start_with_variance_one_over_the_slices():
    encoding = PositionEncoding("trainable", (64, 1, 91, 1)).encoding
    assert encoding.shape == (1, 64, 1, 91, 1)
    assert encoding.std().item() == pytest.approx(91**-0.5, rel=0.05)


def test_a_plain_network_starts_as_he_et_al_say_and_so_do_the_layers_after_it():
    encoder = build("SliceSet", PAPER)
    for name in ("block1", "block3", "block5"):
        weight, bias = encoder.slice_encoder.get_submodule(name)[0].parameters()
        assert weight.std().item() == pytest.approx((2 / (weight.shape[0] * 9)) ** 0.5, rel=0.1) and not bias.any()
    assert encoder.hidden.weight.std().item() == pytest.approx(0.01, rel=0.1) and not encoder.hidden.bias.any()
    plain = {"class_path": "SliceCNN", "init_args": {"initialisation": "torch"}}
    assert build("SliceSet", PAPER, slice_encoder=plain).hidden.bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slice_encoder": "SliceCNNN"}, "did you mean 'SliceCNN'"),
        ({"slice_encoder": "SFCN"}, "expected an encoder of 2D images, found SFCN"),
        ({"slice_encoder": {"class_path": "ResNet", "init_args": {"dims": 3}}}, "expected an encoder of 2D images"),
        ({"slice_encoder": {"class_path": "ResNet", "init_args": {"deepth": 18}}}, "did you mean 'depth'"),
        ({"slice_encoder": {"class_path": "Timm", "init_args": {"name": "resnet81"}}}, "did you mean 'resnet18'"),
        ({"slice_encoder": SMALL_CNN, "width": 9, "attention_heads": 2}, "a width that 2 heads divide, found 9"),
        ({"slice_encoder": SMALL_CNN, "neighbours": 10}, "more slices than the axis has, 9"),
        ({}, "halves each axis 5 times and needs at least 64x32 voxels, the data have 12x10"),
    ],
)
def test_what_does_not_fit_is_told(arguments, message):
    with pytest.raises(InputError, match=message):
        build("SliceSet", VOLUME, **arguments)


def test_a_slice_of_one_remaining_position_is_refused_and_of_two_taken():
    for size, fits in (((63, 63), False), ((32, 64), True), ((64, 32), True)):
        try:
            SliceCNN(input_shape=(1, *size))
        except InputError:
            assert not fits
        else:
            assert fits


FAMILIES = {
    "resnet18": 512,
    "convnext_atto": 320,
    "mobilenetv3_small_100": 1024,
    "vit_tiny_patch16_224": 192,
    "swin_tiny_patch4_window7_224": 768,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_networks_take_the_datas_size_and_state_their_widths(name):
    with torch.device("meta"):
        encoder, images = Timm(name, in_channels=2, input_shape=(2, 109, 91)), torch.empty(2, 2, 109, 91)
        levels = encoder.levels(images)
        assert encoder(images).shape == (2, encoder.features) == (2, FAMILIES[name])
        assert levels[-1].shape == encoder.maps(images).shape and levels[-1].shape[1] == encoder.channels
    lengths = [level.shape[2] for level in levels]
    assert lengths == sorted(set(lengths), reverse=True)
    loose = {key for key, _ in encoder.model.named_parameters(recurse=False)}
    inside = {id(tensor) for block in encoder.blocks for tensor in encoder.get_submodule(block).parameters()}
    lost = {key for key, tensor in encoder.named_parameters() if id(tensor) not in inside}
    assert lost == {f"model.{key}" for key in loose}


@pytest.mark.parametrize(("name", "size"), [("resnet18", (40, 36)), ("vit_tiny_patch16_224", (32, 48))])
def test_timm_networks_give_what_timm_gives(name, size):
    encoder = build("Timm", (3, *size), name=name).eval()
    sized = {"img_size": size} if name.startswith("vit") else {}
    peer = timm.create_model(name, pretrained=False, num_classes=5, **sized).eval()
    own = peer.state_dict()
    encoder.model.load_state_dict({key: own[key] for key in encoder.model.state_dict()})
    images = images_of((3, *size))
    with torch.no_grad():
        expected = peer.forward_head(peer.forward_features(images), pre_logits=True)
        torch.testing.assert_close(encoder(images), expected)
        torch.testing.assert_close(encoder.pool(encoder.levels(images)[-1]), expected)


def test_a_small_timm_network_holds_what_every_encoder_must():
    check_encoder("Timm", [(1, 40, 36), (1, 33, 50)], name="convnext_atto")


def test_images_that_are_no_multiple_of_a_patch_get_zeros_after_their_end():
    encoder = build("Timm", (1, 46, 36), name="vit_tiny_patch16_224").eval()
    images = images_of((1, 46, 36))
    with torch.no_grad():
        padded = functional.pad(images, (0, 12, 0, 2))
        expected = encoder.model.forward_head(encoder.model.forward_features(padded), pre_logits=True)
        torch.testing.assert_close(encoder(images), expected)
    assert encoder.grid == (3, 3) and encoder.maps(images).shape == (2, 192, 10)


def test_published_positions_of_patches_are_resampled_to_the_datas_grid():
    encoder = build("Timm", (1, 32, 48), name="vit_tiny_patch16_224")
    published = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1).state_dict()
    published["pos_embed"] = torch.cat([torch.ones(1, 1, 192), torch.full((1, 196, 192), 3.0)], 1)
    fitted = encoder.fit_positions(published)
    assert fitted["pos_embed"].shape == encoder.model.pos_embed.shape == (1, 7, 192)
    torch.testing.assert_close(fitted["pos_embed"][0, :, 0], torch.tensor([1.0, 3, 3, 3, 3, 3, 3]))
    assert all(fitted[key] is published[key] for key in published if key != "pos_embed")


def test_a_timm_network_encodes_slices():
    slices = {"class_path": "Timm", "init_args": {"name": "resnet18"}}
    with torch.device("meta"):
        encoder = build("SliceSet", (1, 40, 48, 44), slice_encoder=slices, axis="axial", position="trainable")
        assert encoder(torch.empty(2, 1, 40, 48, 44)).shape == (2, 64)
    assert encoder.slice_encoder.model.conv1.in_channels == 3 and encoder.projection.in_features == 512
    assert encoder.blocks[0] == "slice_encoder.model.conv1"
