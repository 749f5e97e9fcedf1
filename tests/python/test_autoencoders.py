"""Autoencoders, the decoder of other encoders, and training without labels."""

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import check_json
from encoder_checks import (
    build,
    check_encoder,
    check_gradients,
    check_layout_and_precision,
    check_smallest,
    check_what_it_says,
    images_of,
)
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional
from training_jobs import RESNET, make_people, make_store, objective, pack_job, pretrain_job, roles, stage, trial_line

from tlimb.architectures.build import build_network
from tlimb.architectures.cae import CodeClassifier
from tlimb.architectures.network import Passed
from tlimb.architectures.unet_decoder import UNetDecoder, enlarged
from tlimb.architectures.unpooling import max_pool, max_positions, max_unpool
from tlimb.architectures.weights import read_weights
from tlimb.data.bioimage import BioImageDataModule
from tlimb.errors import InputError
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.predict import evaluate
from tlimb.files import read_json
from tlimb.objectives.kl_divergence import KLDivergence
from tlimb.objectives.l1 import L1Code, L1Weights
from tlimb.objectives.objective import build_objective
from tlimb.objectives.reconstruction import Reconstruction, draw_mask
from tlimb.objectives.term import Step
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.pretrain import pretrain
from tlimb.scenarios.results import Settings
from tlimb.seeds import seed_for
from tlimb.store import Store

MINMAX = {"intensity": "minmax"}
DECODER = {"reconstruction": {"class_path": "Decoder", "init_args": {}}}


class Given:
    """A network whose outputs are given."""

    def __init__(self, outputs):
        self.outputs = outputs

    def passed(self, images, names=None):
        return Passed(images, self.outputs)


def step_of(images, outputs, seen=None):
    return Step(Given(outputs), images, [], labelled=len(images), seen=seen)


def network_of(class_path, shape, heads=DECODER, recipe=None, **init_args):
    architecture = {"class_path": class_path, "init_args": init_args}
    return build_network(architecture, shape, {}, 0, heads=heads, recipe=recipe)


def autoencoder_as_published(code, x, weights):
    """ConvAutoEncoder of trans-MRI in torch's own functions, from tensors in the order of its state dict."""
    weight = iter(weights)
    found, sizes = [], []
    for _ in range(3):
        x = functional.elu(functional.conv3d(x, next(weight), next(weight), padding=1))
        sizes.append(x.shape[2:])
        x, places = functional.max_pool3d(x, 2, return_indices=True)
        found.append(places)
    x = functional.elu(functional.conv3d(x, next(weight), next(weight)))
    torch.testing.assert_close(code, x)
    x = functional.elu(functional.conv_transpose3d(x, next(weight), next(weight)))
    for number in range(3):
        x = functional.max_unpool3d(x, found.pop(), 2, output_size=sizes.pop())
        x = functional.conv_transpose3d(x, next(weight), next(weight), padding=1)
        x = torch.sigmoid(x) if number == 2 else functional.elu(x)
    return x


def strided_as_published(x, weights):
    """StridedAutoEncoder of trans-MRI likewise."""
    weight, size = iter(weights), x.shape[2:]
    for _ in range(3):
        hidden = functional.elu(functional.conv3d(x, next(weight), next(weight), padding=1))
        x = functional.elu(functional.conv3d(torch.cat([hidden, x], 1), next(weight), next(weight), stride=2))
    for number in range(3):
        hidden = functional.elu(functional.conv3d(x, next(weight), next(weight), padding=1))
        pair, padding = torch.cat([hidden, x], 1), (1, 0, 1) if number == 0 else 0
        x = functional.conv_transpose3d(pair, next(weight), next(weight), stride=2, output_padding=padding)
        x = functional.elu(x) if number == 2 else torch.sigmoid(x)
    return functional.interpolate(x, size=size, mode="nearest")


@pytest.mark.parametrize("shape", [(24, 26, 30), (25, 31, 27)])
def test_the_cae_equals_the_published_one_on_its_tensors_in_their_order(shape):
    network, x = network_of("CAE", (1, *shape), recipe=MINMAX).eval(), torch.rand(2, 1, *shape)
    x[..., :8] = 0  # equal voxels, as around a brain: the first of equal maxima counts
    expected = autoencoder_as_published(network.encoder.maps(x), x, network.parameters())
    torch.testing.assert_close(network(x)["reconstruction"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 26, 30), (25, 31, 27)])
def test_the_srcae_equals_the_published_one_on_its_tensors_in_their_order(shape):
    network, x = network_of("SRCAE", (1, *shape), recipe=MINMAX).eval(), torch.rand(2, 1, *shape)
    expected = strided_as_published(x, network.parameters())
    torch.testing.assert_close(network(x)["reconstruction"], expected, rtol=0, atol=1e-6)


def test_parameters_are_as_many_as_in_the_published_code():
    counts = {"CAE": (31_392, 62_769), "SRCAE": (47_794, 91_688)}
    for name, (encoder, whole) in counts.items():
        network = network_of(name, (1, 24, 24, 24))
        assert sum(weight.numel() for weight in network.encoder.parameters()) == encoder
        assert sum(weight.numel() for weight in network.parameters()) == whole


def test_the_code_of_the_published_volumes_has_the_published_size():
    with torch.device("meta"):
        encoder = network_of("CAE", (1, 108, 128, 108)).encoder
        assert encoder.maps(torch.empty(1, 1, 108, 128, 108)).shape == (1, 16, 11, 14, 11)
    assert encoder.features == 16 * 11 * 14 * 11


def test_weights_start_from_he_normal_and_biases_from_zero():
    encoder = network_of("CAE", (1, 24, 24, 24)).encoder
    weight = encoder.block3[0].weight
    assert weight.std().item() == pytest.approx((2 / (16 * 27)) ** 0.5, rel=0.03)
    assert not any(parameter.any() for name, parameter in encoder.named_parameters() if "bias" in name)


@pytest.mark.parametrize("name", ["CAE", "SRCAE"])
def test_an_autoencoder_keeps_what_every_encoder_keeps(name):
    check_encoder(name, [(1, 24, 26, 25), (2, 28, 24, 24)])
    check_encoder(name, [(1, 33, 24), (3, 24, 24)], dims=2, pooling="mean")


def test_the_vae_keeps_what_every_encoder_keeps():
    for shape in [(1, 24, 26, 25), (2, 28, 24, 24)]:
        check_what_it_says(build("VAE", shape, latent=8), images_of(shape))
    unused = ("log_variance.weight", "log_variance.bias")
    check_gradients(build("VAE", (1, 24, 33), latent=8, dims=2), images_of((1, 24, 33)), unused)
    check_layout_and_precision(build("VAE", (1, 24, 33), latent=8, dims=2), images_of((1, 24, 33)), 0.05)
    check_smallest("VAE", (1, 24, 24, 24), 24, latent=8)


def test_the_text_has_its_own_activation_and_order():
    x = torch.rand(1, 1, 24, 24, 24)
    encoder = network_of("CAE", (1, 24, 24, 24), activation="relu").encoder
    assert isinstance(encoder.block1[1], nn.ReLU) and (encoder(x) >= 0).all()
    block = network_of("SRCAE", (1, 24, 24, 24), first="input").encoder.eval().block1
    expected = block.conv_stride(torch.cat([x, block.conv(x)], 1))
    torch.testing.assert_close(block(x), expected)


def test_an_image_too_small_is_refused_with_both_sizes():
    for name, least in [("CAE", "24"), ("SRCAE", "22"), ("VAE", "24")]:
        with pytest.raises(InputError, match=rf"at least {least} voxels .*20x30x30"):
            network_of(name, (1, 20, 30, 30))
    with pytest.raises(InputError, match="expected four positive whole numbers"):
        network_of("CAE", (1, 24, 24, 24), channels=[8, 16])


def test_the_decoder_ends_as_published_only_for_images_between_0_and_1():
    found = {}
    for recipe in ({"intensity": "minmax"}, {"intensity": "zscore"}):
        for name in ("CAE", "SRCAE", "VAE"):
            body = network_of(name, (1, 24, 24), dims=2, recipe=recipe).head("reconstruction").body
            found[name, recipe["intensity"]] = type(list(body.modules())[-1])
    assert [found[name, "minmax"] for name in ("CAE", "SRCAE", "VAE")] == [nn.Sigmoid, nn.ELU, nn.Sigmoid]
    assert {found[name, "zscore"] for name in ("CAE", "SRCAE", "VAE")} == {nn.Identity}


def test_the_classifier_on_the_encoder_is_as_published():
    network = build_network({"class_path": "CAE", "init_args": {}}, (1, 24, 24, 24), {"diagnosis": 2}, 0)
    head = network.head("diagnosis")
    assert isinstance(head, CodeClassifier)
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert (head[0].in_features, head[0].out_features, head[2].p, head[3].out_features) == (16, 32, 0.25, 2)


@pytest.mark.parametrize("sizes", [(6, 8), (7, 5), (4, 6, 8), (5, 7, 9)])
def test_unpooling_equals_that_of_torch_in_values_and_gradients(sizes):
    images = torch.randn(2, 3, *sizes).round(decimals=0).requires_grad_()  # many equal voxels
    dims = len(sizes)
    pool, unpool = (getattr(functional, f"max_{name}{dims}d") for name in ("pool", "unpool"))
    values, places = pool(images, 2, return_indices=True)
    expected = unpool(values * 2, places, 2, output_size=sizes)
    found = max_unpool(max_pool(images) * 2, max_positions(images), sizes)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((each * weight).sum(), images)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def posterior(latent=4):
    heads = {**DECODER, "posterior": {"class_path": "PosteriorHead", "init_args": {}}}
    return network_of("VAE", (1, 24, 24), heads, dims=2, latent=latent)


def test_the_vae_draws_in_training_only_around_the_mean_of_its_posterior():
    network, images = posterior(), images_of((1, 24, 24))
    network.eval()
    first, second = network(images), network(images)
    torch.testing.assert_close(first["reconstruction"], second["reconstruction"], rtol=0, atol=0)
    torch.testing.assert_close(first["posterior"][:, :4], network.encode(images))
    network.train()
    assert not torch.equal(network(images)["reconstruction"], network(images)["reconstruction"])
    with torch.no_grad():
        network.encoder.log_variance.weight.zero_()
        network.encoder.log_variance.bias.fill_(-60.0)  # a posterior without any spread
    torch.testing.assert_close(network(images)["reconstruction"], first["reconstruction"], rtol=1e-4, atol=1e-5)


def test_the_decoder_of_the_vae_draws_from_the_posterior():
    decoder = posterior().head("reconstruction").body.train()
    mean, log_variance = torch.tensor([1.0, -2.0, 0.0, 3.0]), torch.tensor([0.0, -2.0, 1.0, 0.5])
    drawn = decoder.draw([part.expand(20_000, 4)[..., None, None] for part in (log_variance, mean)])
    torch.testing.assert_close(drawn.mean(dim=0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.std(dim=0), (log_variance / 2).exp(), rtol=0.03, atol=0)


def test_the_divergence_equals_that_of_torch_distributions():
    mean, log_variance, images = torch.randn(5, 3), torch.randn(5, 3), torch.zeros(5, 2, 4, 4)
    each = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(dim=1)
    outputs = {"posterior": torch.cat([mean, log_variance], 1)}
    torch.testing.assert_close(KLDivergence()(step_of(images, outputs)), 2 / 32 * each.mean())


def test_reconstruction_and_divergence_are_the_variational_bound():
    images, found = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    mean, log_variance = torch.randn(3, 2), torch.randn(3, 2)
    outputs = {"reconstruction": found, "posterior": torch.cat([mean, log_variance], 1)}
    step = step_of(images, outputs)
    terms = Reconstruction()(step) + KLDivergence()(step)
    likelihood = Normal(found, 1.0).log_prob(images).flatten(1).sum(dim=1)
    divergence = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(dim=1)
    constant = Normal(0.0, 1.0).log_prob(torch.tensor(0.0)) * 16
    torch.testing.assert_close(terms, 2 / 16 * (divergence - likelihood + constant).mean())


def test_a_divergence_needs_an_encoder_with_a_posterior():
    with pytest.raises(InputError, match="needs an encoder with a posterior"):
        network_of("CAE", (1, 24, 24), {"posterior": {"class_path": "PosteriorHead", "init_args": {}}}, dims=2)


def test_gradients_reach_every_parameter_of_every_autoencoder():
    primary = {"primary": architecture("Reconstruction")}
    both = primary | {"auxiliary": [architecture("KLDivergence")]}
    for name, said in [("CAE", primary), ("SRCAE", primary), ("VAE", both)]:
        terms, images = build_objective(objective(said), []), images_of((1, 24, 26), 3)
        network = network_of(name, (1, 24, 26), terms.heads(), dims=2).train()
        sum(terms(Step(network, images, [], labelled=3)).values()).backward()
        for parameter, tensor in network.named_parameters():
            assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any(), (name, parameter)


def test_l1_of_weights_is_the_sum_over_all_but_biases():
    network = network_of("CAE", (1, 24, 24), dims=2)
    expected = sum(np.abs(tensor.numpy()).sum() for name, tensor in network.weights().items() if "weight" in name)
    found = L1Weights()(Step(network, images_of((1, 24, 24)), [], labelled=2))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_l1_of_the_code_is_its_sum_for_each_scan_and_their_mean():
    network = network_of("CAE", (1, 24, 24), L1Code.heads, dims=2)
    images = images_of((1, 24, 24), 3)
    outputs = network(images)
    torch.testing.assert_close(outputs["code"], network.encode(images))
    expected = outputs["code"].detach().abs().numpy().sum() / 3
    assert L1Code()(Step(network, images, [], labelled=3)).item() == pytest.approx(expected, rel=1e-5)


def test_reconstruction_is_the_mean_error_over_scans_and_voxels():
    images, found = images_of((1, 5, 6), 3), torch.zeros(3, 1, 5, 6)
    step = step_of(images, {"reconstruction": found})
    assert Reconstruction()(step).item() == pytest.approx((images**2).mean().item())
    assert Reconstruction("l1")(step).item() == pytest.approx(images.abs().mean().item())


def test_masks_hide_the_stated_share_of_cubes_and_only_those_are_judged():
    images = images_of((2, 16, 12, 10), 4) + 10
    mask = draw_mask(images, 0.5, 4)
    assert mask.shape == (4, 1, 16, 12, 10)
    cubes = mask[:, 0, ::4, ::4, ::4]
    assert cubes.flatten(1).sum(dim=1).tolist() == [18] * 4 and not torch.equal(cubes[0], cubes[1])
    whole = np.kron(cubes.numpy(), np.ones((1, 4, 4, 4), bool))[..., :10]
    np.testing.assert_array_equal(mask[:, 0].numpy(), whole)
    term = Reconstruction(masked=0.5, patch=4)
    seen = term.seen(images)
    hidden = seen == 0
    torch.testing.assert_close(seen[~hidden], images[~hidden])
    made = {"reconstruction": torch.zeros_like(images)}
    step = step_of(images, made, seen=term.seen)
    torch.manual_seed(5)
    value = term(step)
    torch.manual_seed(5)
    hidden = term.seen(images) == 0
    expected = np.mean([each[where].square().mean().item() for each, where in zip(images, hidden)])
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert not torch.equal(term.seen(images), seen)


def test_beside_a_primary_term_holes_are_passed_apart_on_every_scan():
    network, images = network_of("CAE", (1, 24, 24), dims=2).eval(), images_of((1, 24, 24), 3) + 10
    term = Reconstruction(masked=0.5, patch=4)
    step = Step(network, images, [], labelled=2)
    torch.manual_seed(3)
    value = term(step)
    assert "passed" not in vars(step), "the primary term's pass would be made for nothing"
    torch.manual_seed(3)
    hidden = draw_mask(images, 0.5, 4)
    made = network(images.masked_fill(hidden, 0.0))["reconstruction"]
    torch.testing.assert_close(value, (made - images)[hidden].square().mean())
    assert not term.sees_unlabelled and Reconstruction().sees_unlabelled
    value.backward()
    assert all(weight.grad.any() for weight in network.parameters())


SEVERAL = [
    ("ResNet", (1, 33, 40, 30), {"depth": 10, "width": 0.125}),
    ("ResNet", (2, 33, 40), {"depth": 10, "width": 0.125, "dims": 2}),
    ("ResNet", (5, 70), {"depth": 10, "width": 0.125, "dims": 1}),
    ("SFCN", (1, 32, 34, 40), {}),
    ("CAE", (1, 25, 24), {"dims": 2}),
]


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("name, shape, arguments", SEVERAL)
def test_the_u_net_decoder_gives_an_image_of_the_input_for_any_encoder(name, shape, arguments, skips):
    heads = {"reconstruction": {"class_path": "UNetDecoder", "init_args": {"skips": skips, "width": 8}}}
    with torch.device("meta"):
        network = network_of(name, shape, heads, **arguments)
        assert network(torch.empty(2, *shape))["reconstruction"].shape == (2, *shape)


def test_skips_let_every_level_of_another_size_into_the_decoder():
    heads = {"reconstruction": {"class_path": "UNetDecoder", "init_args": {"skips": True}}}
    network = network_of("CAE", (1, 24, 24), heads, dims=2)
    decoder = network.head("reconstruction")
    assert decoder.sizes == [[3, 3], [6, 6], [12, 12], [24, 24]] and decoder.places == [None, 2, 1, 0]
    images = images_of((1, 24, 24), 2)
    levels = network.encoder.levels(images)
    before = decoder(levels)
    for place in range(3):
        changed = [level + (number == place) for number, level in enumerate(levels)]
        assert not torch.allclose(decoder(changed), before)


def test_an_image_is_enlarged_by_the_nearest_position_where_strides_of_two_had_it():
    line = torch.arange(4.0)[None, None]
    assert enlarged(line, [7]).tolist() == [[[0, 0, 1, 1, 2, 2, 3]]]
    assert enlarged(line, [9]).tolist() == [[[0, 0, 1, 1, 2, 2, 3, 3, 3]]]
    assert enlarged(line, [4]).tolist() == line.tolist()
    assert enlarged(line, [6]).tolist() == [[[0, 0, 1, 2, 2, 3]]]


def test_an_encoder_without_maps_of_the_image_has_no_u_net():
    class Alone(nn.Module):
        features = 3

    with pytest.raises(InputError, match="needs an encoder with maps; Alone gives features alone"):
        UNetDecoder(Alone(), (1, 8, 8))
    slices = nn.Module()
    slices.maps = lambda volumes: torch.empty(1, 5, 9)
    with pytest.raises(InputError, match="needs maps with 3 axes of space, as the images have; those of Module have 1"):
        UNetDecoder(slices, (1, 8, 8, 8))


def test_an_encoder_without_a_decoder_of_its_own_gets_a_u_net_without_skips():
    network = network_of("ResNet", (1, 32, 32), depth=10, dims=2, width=0.125).train()
    images = images_of((1, 32, 32), 3)
    network(images)["reconstruction"].square().sum().backward()
    assert network.head("reconstruction").takes == "maps"
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in network.parameters())


@pytest.fixture(scope="module")
def lifespan(tmp_path_factory):
    """Scans of 24 people, 24 voxels wide."""
    folder, people = tmp_path_factory.mktemp("lifespan"), make_people("lifespan", 24)
    make_store(folder / "store", people, shape=(24, 24, 24))
    return folder / "store", people


SLICE = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial", "count": 1}}
VOLUME = {"class_path": "BaseDataModule", "init_args": {}}


def without_labels(module=SLICE, auxiliary=(), **arguments):
    primary = {"class_path": "Reconstruction", "init_args": arguments}
    data = {"labelled": None, "unlabelled": {"cohort": ["lifespan"], "modality": None, "n": None}, "module": module}
    return stage("pretrain", "age", targets=[], objective={"primary": primary, "auxiliary": list(auxiliary)}, **data)


def architecture(name, **init_args):
    return {"class_path": name, "init_args": init_args}


RUNS = {
    "a convolutional autoencoder of volumes": (architecture("CAE"), without_labels(VOLUME)),
    "a strided one of slices": (architecture("SRCAE", dims=2), without_labels(loss="l1")),
    "a variational one": (
        architecture("VAE", dims=2, latent=8),
        without_labels(auxiliary=[architecture("KLDivergence"), architecture("L1Weights")]),
    ),
    "a residual network behind masks": (RESNET, without_labels(masked=0.5, patch=4)),
}


@pytest.fixture(scope="module", params=RUNS)
def pretrained(request, lifespan, tmp_path_factory):
    """The folder of a finished pretraining, its line, its network and its stage."""
    (network, spec), (store, people), folder = RUNS[request.param], lifespan, tmp_path_factory.mktemp("pretrained")
    line = pretrain_job(folder / "job", roles(people, validation=6, test=8), spec, network)
    made = pretrain(folder / "job", store, None, folder / "out", Settings(torch.device("cpu")))
    assert read_json(made / "encoder.json")["status"] == "ok", read_json(made / "encoder.json")["reason"]
    return made, line, network, spec


def test_an_encoder_is_pretrained_without_labels(pretrained):
    folder, _, _, spec = pretrained
    losses = pd.read_csv(folder / "history.csv")["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    scores = read_json(folder / "scores.json")
    assert scores["targets"] == {} and scores["n"] == {"scans": 8, "persons": 8}
    figure = scores["loss"][spec["objective"]["primary"]["init_args"].get("loss", "mse")]
    assert 0 < figure["low"] < figure["value"] < figure["high"]
    check_json("scores", scores)


def test_its_figure_is_the_error_on_held_out_scans(pretrained, lifespan):
    folder, _, network, spec = pretrained
    primary = spec["objective"]["primary"]["init_args"]
    (store, people), volumes = lifespan, spec["data"]["module"] == VOLUME
    shape = (1, 24, 24, 24) if volumes else (1, 24, 24)
    made = build_network(network, shape, {}, 0, heads=DECODER, recipe={"intensity": "zscore"}).eval()
    tensors = {f"encoder.{name}": tensor for name, tensor in read_weights(folder / "encoder.safetensors").items()}
    heads = read_weights(folder / "heads.safetensors").items()
    tensors |= {name.replace("reconstruction.", "heads.0."): tensor for name, tensor in heads}
    made.load_state_dict(tensors)
    scans = torch.from_numpy(Store(store, ["all"]).gather(people["scan_id"].iloc[-8:].tolist())).float()
    images = scans[:, None] if volumes else scans[..., 11][:, None]
    torch.manual_seed(seed_for(0, "prediction", 0))
    whole = torch.ones_like(images, dtype=torch.bool)
    hidden = draw_mask(images, primary["masked"], primary["patch"]) if "masked" in primary else whole
    with torch.no_grad():
        seen = images.masked_fill(hidden, 0.0) if "masked" in primary else images
        errors = (made(seen)["reconstruction"] - images)[hidden]
    loss = primary.get("loss", "mse")
    expected = errors.abs().mean() if loss == "l1" else errors.square().mean()
    found = read_json(folder / "scores.json")["loss"][loss]["value"]
    assert found == pytest.approx(expected.item(), rel=1e-4)


def test_it_is_fine_tuned_on_a_target_of_others(tmp_path, pretrained, lifespan):
    folder, line, network, spec = pretrained
    target = roles(make_people("lifespan", 24), 6, 6).assign(person=lambda rows: "other/" + rows["person"])
    tuned = stage("finetune", "age", module=spec["data"]["module"], epochs=1)
    trial = trial_line(tuned, line["id"], architecture=network)
    pack_job(tmp_path / "pack", target, [trial])
    finetune(tmp_path / "pack", lifespan[0], folder.parent, tmp_path / "models", Settings(torch.device("cpu")))
    model = read_json(tmp_path / "models" / trial["id"] / "model.json")
    assert model["status"] == "ok", model["reason"]
    assert model["start"]["id"] == line["id"]


def test_masks_of_the_validation_part_are_alike_in_every_epoch(tmp_path, lifespan):
    spec = without_labels(masked=0.5, patch=4) | {"optimizer": architecture("SGD", lr=0.0)}
    spec["heads"] = {"reconstruction": architecture("UNetDecoder", skips=True)}
    cnn = architecture("CAE", dims=2)  # without batch norm, so that nothing changes
    store, people = lifespan
    pretrain_job(tmp_path / "job", roles(people, 6, 8), spec, cnn)
    folder = pretrain(tmp_path / "job", store, None, tmp_path / "out", Settings(torch.device("cpu")))
    history = pd.read_csv(folder / "history.csv")
    assert history["validation_loss"].nunique() == 1 and history["train_loss"].nunique() == 2


def test_reconstruction_beside_a_target_is_the_mixed_mode(tmp_path, lifespan):
    store, people = lifespan
    beside = {"primary_weight": 0.3, "auxiliary": [architecture("Reconstruction") | {"weight": 0.7}]}
    heads = {"diagnosis": architecture("LinearHead"), "reconstruction": architecture("UNetDecoder", width=8)}
    mixed = stage("finetune", "diagnosis", objective=beside, module=SLICE, heads=heads, epochs=1)
    trial = trial_line(mixed, architecture=architecture("CAE", dims=2, head_dropout=0.35))
    pack_job(tmp_path / "pack", roles(people, 6, 6), [trial])
    finetune(tmp_path / "pack", store, tmp_path / "none", tmp_path / "models", Settings(torch.device("cpu")))
    folder = tmp_path / "models" / trial["id"]
    assert read_json(folder / "model.json")["status"] == "ok", read_json(folder / "model.json")["reason"]
    assert (pd.read_csv(folder / "history.csv")["train_reconstruction"] > 0).all()
    evaluate(tmp_path / "pack", store, tmp_path / "models", tmp_path / "scores", Evaluate(bootstrap=100), torch.device("cpu"))
    scores = read_json(tmp_path / "scores" / trial["id"] / "scores-test.json")
    assert list(scores["targets"]) == ["diagnosis"] and "loss" not in scores


def test_one_random_slice_is_shown_in_training_and_the_middle_one_otherwise():
    module = BioImageDataModule(size=[6, 7, 1], shift=20, channels="axial")
    volume = np.tile(np.arange(9, dtype="float32"), (1, 6, 7, 1))
    images = torch.from_numpy(module.arrange(volume[(slice(None), *module.box((6, 7, 9)))])).expand(200, -1, -1, -1)
    drawn = module.present(images, training=True)
    assert drawn.shape == (200, 1, 6, 7) and drawn.flatten(1).std(dim=1).max() == 0
    assert set(drawn[:, 0, 0, 0].tolist()) == set(range(9))
    assert set(module.present(images, training=False).flatten().tolist()) == {4.0}
