"""What selected networks look at, how they see scans beside each other, and what autoencoders make of them."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import LayerGradCam, Occlusion
from PIL import Image
from results_tree import rewrite_json, write_results_tree
from sklearn.decomposition import PCA
from torch import nn
from torch.nn.functional import interpolate
from training_jobs import make_people, make_store, pack_job, pretrain_job, roles, stage, trial_line

from tlimb.architectures.build import build_network
from tlimb.architectures.network import Network
from tlimb.data.bioimage import BioImageDataModule
from tlimb.data.modules import BaseDataModule, CropCenterDataModule
from tlimb.data.series import SeriesDataModule
from tlimb.data.targets import Target
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.probe import probe
from tlimb.explain.attention import attention, rollout
from tlimb.explain.explain import Inputs, explain
from tlimb.explain.features import pca, tsne, umap
from tlimb.explain.geometry import geometry, spatial
from tlimb.explain.grad_cam import grad_cam
from tlimb.explain.integrated_gradients import TOLERANCE, integrated_gradients
from tlimb.explain.occlusion import MOST, counts, occlusion, patch_sizes, patches
from tlimb.explain.output import DoesNotApply, explained_output, value_of
from tlimb.explain.reconstruct import from_patches, histograms, read_autoencoder, rebuilt
from tlimb.explain.scans import drawn, groups
from tlimb.explain.select import selected_trials
from tlimb.files import read_json, write_json, write_parquet
from tlimb.objectives.masked_autoencoder import patches_of
from tlimb.ranking.rank import rank
from tlimb.ranking.results import read_results
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.pretrain import pretrain
from tlimb.scenarios.results import Settings

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
WAYS = ["occlusion", "integrated_gradients", "grad_cam", "attention"]
SCORE = Target("score", "regression", (), 0.0, 2.0)
GROUP = Target("group", "classification", ("a", "b"))
SHAPES = {2: (1, 16, 20), 3: (1, 16, 20, 12)}
REGION = {2: (slice(9, 13), slice(4, 8)), 3: (slice(9, 13), slice(4, 8), slice(6, 10))}


class Watcher(nn.Module):
    """An encoder whose first feature is the sum of what is bright in one region, its second that of all else."""

    features = channels = 2
    blocks = ()

    def __init__(self, dims: int):
        super().__init__()
        self.dims = dims
        mask = torch.zeros(SHAPES[dims][1:])
        mask[REGION[dims]] = 1
        self.register_buffer("mask", mask)

    def maps(self, images):
        bright = images.relu()
        return torch.cat([bright * self.mask, bright * (1 - self.mask)], 1)

    def pool(self, maps):
        return maps.flatten(2).mean(2)

    def forward(self, images):
        return self.pool(self.maps(images))


def watching(dims: int, target: Target, weights) -> Network:
    """A network that looks at the Watcher's first feature alone, by linear weights."""
    head = nn.Linear(2, target.outputs, bias=False)
    head.weight.data = torch.tensor(weights, dtype=torch.float32)
    return Network(Watcher(dims), {target.name: head}).eval().requires_grad_(False)


def bright(dims: int, n: int = 3) -> torch.Tensor:
    return torch.rand(n, *SHAPES[dims], generator=torch.Generator().manual_seed(0)) + 0.5


def inside(maps: torch.Tensor, dims: int) -> list[bool]:
    """Whether each map's largest value lies in the region."""
    places = [np.unravel_index(int(one.abs().argmax()), one.shape)[1:] for one in maps]
    return [all(part.start <= at < part.stop for part, at in zip(REGION[dims], place)) for place in places]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("sign", [1, -1])
def test_each_method_finds_the_one_region_that_a_network_looks_at_and_its_sign(dims, sign):
    network, images = watching(dims, SCORE, [[sign, 0]]), bright(dims)
    output = explained_output(network, SCORE)
    found = {
        "occlusion": occlusion(output, images, (1, *[4] * dims), (1, *[2] * dims)),
        "integrated gradients": integrated_gradients(output, images).maps,
        "Grad-CAM": grad_cam(network, output, images, positive=False)[0],
    }
    for name, maps in found.items():
        assert maps.shape == images.shape and all(inside(maps, dims)), name
        total = maps.flatten(1).sum(1)
        assert (torch.sign(total) == sign).all(), name


def test_what_speaks_for_one_of_two_classes_speaks_against_the_other():
    network, images = watching(2, GROUP, [[1, 0], [-1, 0]]), bright(2)
    for outcome, sign in ((0, 1), (1, -1)):
        output = explained_output(network, GROUP, outcome)
        assert torch.sign(occlusion(output, images, (1, 4, 4), (1, 2, 2)).sum()) == sign
        assert torch.sign(integrated_gradients(output, images).maps.sum()) == sign
        assert bool(grad_cam(network, output, images, positive=True)[0].any()) == (sign > 0)


def test_shares_of_a_linear_function_are_its_weights_times_the_voxels():
    images = torch.randn(3, 2, 5, 6, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))
    shares = integrated_gradients(lambda given: (given * weights).flatten(1).sum(1) + 7, images)
    torch.testing.assert_close(shares.maps, images * weights, rtol=1e-5, atol=1e-6)
    assert (shares.error < 1e-5).all() and (shares.steps == 32).all()


def test_shares_of_a_curved_function_are_its_path_integral_and_sum_to_its_difference():
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    shares = integrated_gradients(lambda given: given.flatten(1).pow(3).sum(1), images)
    torch.testing.assert_close(shares.maps, images**3, rtol=1e-4, atol=1e-6)  # the integral of 3 (a x)^2 x da


def test_shares_that_miss_the_difference_get_more_points_and_are_told():
    step = integrated_gradients(lambda given: (1e4 * (given.flatten(1).sum(1) - 0.3)).sigmoid(), torch.ones(1, 1, 2, 2))
    assert step.steps == 128 and step.error > TOLERANCE


def test_occlusion_is_that_of_captum_and_covers_whatever_does_not_fit_evenly():
    torch.manual_seed(4)
    network = nn.Sequential(nn.Conv3d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(1))
    images = torch.randn(2, 1, 7, 6, 9)
    images[:, :, 5:] = 0

    def output(given):
        return network(given)[:, 0]

    output(images)
    patch, step = (1, 3, 2, 4), (1, 2, 1, 2)
    known = Occlusion(output).attribute(images, patch, step)
    torch.testing.assert_close(occlusion(output, images, patch, step), known.detach(), rtol=1e-4, atol=1e-6)


def test_patches_are_an_eighth_of_each_axis_of_space_and_few_enough():
    assert patch_sizes((1, 80, 96), 16) == ((1, 10, 12), (1, 5, 6))
    assert patch_sizes((40, 80, 96), 5) == ((5, 10, 12), (5, 10, 12))
    assert patch_sizes((100, 60), 16) == ((1, 60), (1, 60))
    patch, step = patch_sizes((1, 80, 96, 80), 16)
    assert patch == step == (1, 14, 16, 14)
    assert 16 * np.prod(counts((1, 80, 96, 80), patch, step)) <= MOST
    covered = np.zeros((7, 5))
    for place in patches((7, 5), (3, 2), (2, 1)):
        covered[place] += 1
    assert covered.min() >= 1


@pytest.mark.parametrize("size", [(5, 4), (5, 4, 3)])
def test_grad_cam_weighs_maps_by_the_mean_gradient_over_every_axis_of_space(size):
    rng = np.random.default_rng(5)
    places, images = rng.normal(size=(3, *size)), rng.normal(size=(2, 3, *size))
    encoder = nn.Module()
    encoder.dims, encoder.blocks, encoder.features = len(size), (), 3
    encoder.maps = lambda given: given * 1.0
    network = Network(encoder, {})

    def output(given):
        return (encoder.maps(given) * torch.tensor(places)).flatten(1).sum(1)

    maps, said = grad_cam(network, output, torch.tensor(images), positive=False)
    alpha = places.reshape(3, -1).mean(1)
    expected = np.einsum("k,nk...->n...", alpha, images)
    np.testing.assert_allclose(maps[:, 0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert said == {"layer": "maps", "size": list(size)}


@pytest.mark.parametrize(("dims", "shape"), [(2, (1, 40, 48)), (3, (1, 40, 48, 40))])
def test_grad_cam_of_a_residual_network_is_that_of_captum_on_its_last_layer(dims, shape):
    network = network_of("ResNet", shape, {"depth": 10, "dims": dims, "width": 0.125})
    images = torch.randn(2, *shape)
    output = explained_output(network, SCORE)
    found, said = grad_cam(network, output, images, positive=True)
    assert said["layer"] == "maps"
    known = LayerGradCam(output, network.encoder.layer4).attribute(images, relu_attributions=True)
    mode = {2: "bilinear", 3: "trilinear"}[dims]
    torch.testing.assert_close(found[:, :1], interpolate(known, shape[1:], mode=mode).detach(), rtol=1e-4, atol=1e-5)


def network_of(architecture: str, shape, arguments: dict, heads=None) -> Network:
    spec = {"class_path": architecture, "init_args": arguments}
    network = build_network(spec, shape, {"score": 1}, 0, (), heads)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("architecture", "shape", "arguments", "layer"),
    [
        ("VAE", (1, 40, 48), {"dims": 2, "latent": 4}, "block4"),
        ("CAE", (1, 40, 48), {"dims": 2}, "maps"),
        ("ViT", (1, 40, 48), {"dims": 2, "size": "tiny", "layers": 3, "patch_size": 9}, "layers.1"),
        ("ViT", (1, 40, 48), {"dims": 2, "size": "tiny", "layers": 2, "patch_size": 8, "pooling": "mean"}, "maps"),
        ("SliceSet", (1, 6, 32, 64), {}, "slice_encoder.maps"),
        ("SliceLSTM", (1, 6, 32, 64), {}, "slice_encoder.maps"),
        ("CNN1D", (6, 64), {}, "maps"),
    ],
)
def test_grad_cam_finds_the_last_maps_of_every_kind_of_network(architecture, shape, arguments, layer):
    network, images = network_of(architecture, shape, arguments), torch.randn(2, *shape)
    before = network(images)["score"]
    maps, said = grad_cam(network, explained_output(network, SCORE), images, positive=False)
    assert maps.shape == images.shape and maps.isfinite().all() and bool(maps.any())
    assert said["layer"] == layer
    torch.testing.assert_close(network(images)["score"], before)  # nothing stays watched


def test_networks_without_gradients_or_maps_say_that_grad_cam_does_not_apply():
    network, series = network_of("LinearBaseline", (4, 16), {}), torch.randn(2, 4, 16)
    with pytest.raises(DoesNotApply):
        grad_cam(network, explained_output(network, SCORE), series, positive=False)
    with pytest.raises(DoesNotApply):
        integrated_gradients(lambda given: given.detach().sum((1, 2)), series)


def test_attention_of_slices_lies_on_their_axis_as_multiples_of_an_even_share():
    network, images = network_of("SliceSet", (1, 6, 32, 64), {}), torch.randn(3, 1, 6, 32, 64)
    maps, said = attention(network, "score", images)
    weights = network.encoder.slice_weights(images)[:, 0]
    torch.testing.assert_close(maps[:, 0, :, 5, 7], 6 * weights)
    assert said["axis"] == "sagittal" and bool((maps.std(dim=(3, 4)) == 0).all())
    with pytest.raises(DoesNotApply):
        attention(network_of("SliceSet", (1, 6, 32, 64), {"aggregation": "mean"}), "score", images)


def test_attention_of_a_pooling_head_is_its_gate():
    heads = {"score": {"class_path": "AttentionPoolHead", "init_args": {"hidden": 8}}}
    network = network_of("ResNet", (1, 64, 64), {"depth": 10, "dims": 2, "width": 0.125}, heads)
    images = torch.randn(2, 1, 64, 64)
    maps, said = attention(network, "score", images)
    gate = network.head("score").attention(network.encoder.maps(images)).unflatten(1, (1, 2, 2))
    torch.testing.assert_close(maps, interpolate(4 * gate, (64, 64), mode="bilinear"))
    assert said == {"of": "positions"}


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_rollout_is_the_product_of_attention_with_shortcuts(pooling):
    arguments = {"dims": 2, "size": "tiny", "layers": 2, "patch_size": 8, "pooling": pooling}
    network, images = network_of("ViT", (1, 24, 32), arguments), torch.randn(2, 1, 24, 32)
    for layer in network.encoder.layers:
        layer.attn.save_attn = True
    maps, said = attention(network, "score", images)
    one, two = (layer.attn.att_mat.numpy().mean(1) for layer in network.encoder.layers)
    eye = np.eye(one.shape[1])
    flow = np.einsum("bij,bjk->bik", (two + eye) / 2, (one + eye) / 2)
    shares = flow[:, 0, 1:] if pooling == "class" else flow.mean(1)
    shares = 12 * (shares / shares.sum(1, keepdims=True)).reshape(2, 3, 4)
    expected = interpolate(torch.tensor(shares)[:, None].float(), (24, 32), mode="bilinear")
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)
    assert said == {"of": "patches"}
    np.testing.assert_allclose(rollout([torch.tensor(one)[:, None]]).sum(2), 1, rtol=1e-5)


def test_attention_does_not_apply_to_windows_and_to_convolutions():
    for name, arguments in (("Swin", {"dims": 2}), ("ResNet", {"depth": 10, "dims": 2, "width": 0.125})):
        with pytest.raises(DoesNotApply):
            attention(network_of(name, (1, 64, 64), arguments), "score", torch.randn(1, 1, 64, 64))


def test_explained_numbers_are_those_of_the_label():
    outputs = torch.tensor([[0.2, -1.0, 0.7]])
    probabilities = outputs.softmax(1)[0]
    odds = value_of(Target("x", "classification", ("a", "b", "c")), outputs, 1)
    torch.testing.assert_close(odds[0], torch.log(probabilities[1] / (1 - probabilities[1])))
    grade = Target("x", "ordinal", ("a", "b", "c", "d"))
    expected = grade.decode(outputs.numpy())[1] @ np.arange(4)
    np.testing.assert_allclose(value_of(grade, outputs, None), expected, rtol=1e-6)
    assert value_of(SCORE, torch.tensor([[3.0]]), None) == 6.0


@pytest.mark.parametrize(
    "module",
    [
        BaseDataModule(),
        CropCenterDataModule(size=[7, 9, 4]),
        CropCenterDataModule(slices="axial"),
        CropCenterDataModule(slices="coronal", start=2, stop=9, step=3),
        CropCenterDataModule(size=[6, 14], slices="sagittal", count=4, pad=True),
        BioImageDataModule(size=[6, 8, 4], centre=[0.2, 0.9, 0.5], shift=2),
        BioImageDataModule(size=[6, 8, 4], channels="axial"),
    ],
)
def test_what_a_module_shows_is_put_back_to_where_it_was(module):
    shape = (9, 11, 8)
    volume = np.random.default_rng(6).normal(size=(1, *shape)).astype("float32") + 5
    shown = module.arrange(volume[(slice(None), *module.box(shape))])
    image = module.present(torch.from_numpy(np.array(shown)), False)
    place = geometry(module, shape, tuple(image.shape[1:]))
    back = place.place(spatial(image.numpy())[0])
    step = getattr(module, "step", 1)
    there = np.abs(back) > 1e-6
    assert there.sum() >= (spatial(image.numpy()) != 0).sum()
    if step == 1:
        np.testing.assert_allclose(back[there], volume[0][there], rtol=1e-5)
        assert there.sum() == (spatial(image.numpy()) != 0).sum()
    else:
        np.testing.assert_allclose(back[:, [2, 5, 8]], volume[0][:, [2, 5, 8]], rtol=1e-5)


@pytest.mark.parametrize("zoom", [0.5, 0.7, 2.0])
def test_resized_images_are_put_back_at_their_size(zoom):
    shape, module = (16, 12, 20), BaseDataModule(zoom=zoom)
    ramp = np.indices(shape).astype("float32") + 3
    back = []
    for axis in range(3):
        image = module.arrange(ramp[[axis]])
        back.append(geometry(module, shape, image.shape[1:]).place(image[0, 0]))
    within = (slice(None), *[slice(2, -2)] * 3)
    assert np.abs(np.stack(back)[within] - ramp[within]).max() < 0.35


def test_series_and_images_that_hooks_reshape_have_no_place_in_the_grid():
    assert geometry(SeriesDataModule(), (30, 5), (5, 30)) is None
    assert geometry(BaseDataModule(), (9, 8, 7), (1, 4, 4, 4)) is None


def test_explained_scans_are_of_every_class_alike_one_a_person_and_the_seed_decides():
    rows = pd.DataFrame({"scan_id": [f"s{i:02d}" for i in range(30)], "person": [f"p{i // 2:02d}" for i in range(30)]})
    rows["group"] = ["a"] * 24 + ["b"] * 6
    rows.loc[[0, 1], "group"] = None
    taken = drawn(rows, GROUP, 6, seed=1)
    assert taken["group"].value_counts().to_dict() == {"a": 3, "b": 3} and taken["person"].is_unique
    assert taken.equals(drawn(rows.sample(frac=1, random_state=3), GROUP, 6, seed=1))
    assert not taken.equals(drawn(rows, GROUP, 6, seed=2))
    found = groups(taken, GROUP)
    assert [group.name for group in found] == ["a", "b"] and [len(group.places) for group in found] == [3, 3]
    assert all(taken["group"].iloc[group.places].eq(group.name).all() for group in found)


def test_components_are_those_of_scikit_learn_and_few_scans_have_no_t_sne():
    features = np.random.default_rng(7).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    found, shares = pca(features)
    known = PCA(2).fit(features)
    np.testing.assert_allclose(np.abs(found), np.abs(known.transform(features)), rtol=1e-8)
    np.testing.assert_allclose(shares, known.explained_variance_ratio_, rtol=1e-8)
    assert pca(np.ones((1, 3)))[0].tolist() == [[0, 0]]
    nothing, perplexity = tsne(features[:3], 0)
    assert np.isnan(nothing).all() and perplexity is None


def test_t_sne_parts_clusters_and_follows_its_seed():
    rng = np.random.default_rng(8)
    features = np.concatenate([rng.normal(size=(12, 5)), rng.normal(size=(12, 5)) + 20])
    found, perplexity = tsne(features, 3)
    assert perplexity == pytest.approx(23 / 3)
    one, two = found[:12], found[12:]
    assert np.linalg.norm(one.mean(0) - two.mean(0)) > 2 * max(one.std(), two.std())
    assert np.array_equal(found, tsne(features, 3)[0])


@pytest.mark.long
def test_umap_parts_clusters_and_follows_its_seed():
    rng = np.random.default_rng(9)
    features = np.concatenate([rng.normal(size=(20, 5)), rng.normal(size=(20, 5)) + 20])
    found, neighbours = umap(features, 3)
    assert neighbours == 15 and np.isnan(umap(features[:3], 3)[0]).all()
    one, two = found[:20], found[20:]
    assert np.linalg.norm(one.mean(0) - two.mean(0)) > 2 * max(one.std(), two.std())
    assert np.array_equal(found, umap(features, 3)[0])


def test_histograms_count_every_number_of_codes_and_the_means_over_scans():
    code = torch.tensor([[0.0, 2.0, 0.001], [0.0, 4.0, -0.001]])
    found = histograms(code)
    assert sum(found["values"]["counts"]) == 6 and sum(found["means"]["counts"]) == 3
    assert found["values"]["near_zero"] == pytest.approx(4 / 6) and found["means"]["near_zero"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (2, 1, 8, 12, 4)])
def test_patches_are_put_together_again(shape):
    images, grid = torch.randn(shape), (4, 3, 2)[: len(shape) - 2]
    assert torch.equal(from_patches(patches_of(images, grid), grid, shape), images)


def test_the_explained_trials_are_the_first_of_what_ranking_selects(tmp_path):
    files = write_results_tree(tmp_path)
    results = read_results(**files)
    trials, selected = selected_trials(results), rank(results).selected()
    assert [trial["candidate"] for trial in trials] == [row["candidate"] for row in selected]
    assert [trial["selected"] for trial in trials] == [row["selected"] for row in selected]
    for trial, row in zip(trials, selected):
        finished = [one for one in row["trials"] if one["status"] == "ok"]
        assert trial["id"] == min(finished, key=lambda one: one["seed"])["id"]
        assert (trial["metric"], trial["columns"]) == ("balanced_accuracy", {})
    for path in tmp_path.glob("scores/*/*test*"):
        path.unlink()
    assert selected_trials(read_results(**files)) == trials
    asked = read_json(files["sweep"])["evaluate"] | {"harmonise": "cohort", "keeping": ["age"]}
    rewrite_json(files["sweep"], evaluate=asked)
    kinds = {"cohort": {"kind": "classification"}, "age": {"kind": "regression"}}
    assert [trial["columns"] for trial in selected_trials(read_results(**files))] == [kinds] * len(trials)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A pack of a slice model that was an autoencoder before, and of a model of volumes; its explanations."""
    set_up_torch(1, training=True)
    folder = tmp_path_factory.mktemp("explained")
    clinic, lifespan = make_people("clinic", 26, seed=1), make_people("lifespan", 16)
    make_store(folder / "store", pd.concat([clinic, lifespan]))
    primary = {"primary": {"class_path": "Reconstruction", "init_args": {}}}
    one = stage("pretrain", "age", epochs=1, objective=primary) | {"targets": []}
    line = pretrain_job(folder / "pretrain", roles(lifespan, 3, 3), one)
    settings = Settings(CPU)
    pretrain(folder / "pretrain", folder / "store", None, folder / "encoders", settings)
    crop = {"class_path": "CropCenterDataModule", "init_args": {"size": [9, 10, 9]}}
    plain = {"class_path": "ResNet", "init_args": {"depth": 10, "width": 0.0625, "stem_stride": 1, "stem_pool": False}}
    trials = [
        trial_line(stage("finetune", "diagnosis", epochs=1), init=line["id"]),
        trial_line(stage("finetune", "diagnosis", epochs=1, strategy="scratch", module=crop), architecture=plain),
    ]
    pack_job(folder / "job", roles(clinic, 6, 10), trials)
    finetune(folder / "job", folder / "store", folder / "encoders", folder / "models", settings)
    cohort = clinic.assign(site=np.where(np.arange(len(clinic)) % 2, "north", "south"), phase="one", image="/data/x.nii.gz", empty=None)
    cohort.to_parquet(folder / "cohort.parquet")
    facts = {"candidate": "c", "name": "full", "selected": "best"}
    chosen = [{"id": trial["id"], "init": trial["init"]} | facts for trial in trials]
    paths = (folder / name for name in ("job", "store", "models", "encoders", "cohort.parquet"))
    inputs, asked = Inputs(*paths), Evaluate(explain=WAYS, explained=6)
    torch.use_deterministic_algorithms(False)
    with pytest.MonkeyPatch.context() as patch:  # UMAP compiles itself for 15 seconds: the long test runs it
        patch.setattr("tlimb.explain.features.umap", lambda features, seed: (pca(features)[0], len(features) - 1))
        explain(inputs, chosen, asked, folder / "out", CPU)
        yield folder, inputs, chosen


def test_every_method_has_its_maps_in_template_space_or_says_why_not(world):
    folder, _, chosen = world
    for trial, dims in zip(chosen, (2, 3)):
        out = folder / "out" / trial["id"]
        said = read_json(out / "explain.json")
        assert said["set"] == "test" and said["space"] == "MNI152" and len(said["scans"]) == 6
        assert list(said["methods"]) == WAYS
        assert said["methods"]["attention"]["status"] == "left out" and said["methods"]["attention"]["reason"]
        for name in WAYS[:3]:
            method = said["methods"][name]
            assert method["status"] == "ok" and [one["class"] for one in method["maps"]] == ["control", "patient"]
            for one in method["maps"]:
                image = nibabel.load(out / one["nifti"])
                assert image.shape == (16, 18, 16) and image.header["sform_code"] == 4
                values = image.get_fdata()
                assert values[tuple(one["peak_voxel"])] == pytest.approx(one["peak"], rel=1e-5)
                assert np.abs(values).max() == pytest.approx(abs(one["peak"]), rel=1e-5)
                place = [8.0 * place for place in one["peak_voxel"]]
                assert one["peak_mni"] == (place if one["peak"] else None)
                assert values[:, :, :7].any() == values[:, :, 8:].any() == (dims == 3)
                with Image.open(out / one["png"]) as picture:
                    assert picture.width > 600 and min(picture.convert("RGB").getpixel((1, 1))) > 250
                assert (out / one["png"]).stat().st_size < 150_000


def test_features_of_every_held_out_scan_lie_beside_its_labels(world):
    folder, _, chosen = world
    said = read_json(folder / "out" / chosen[0]["id"] / "explain.json")["features"]
    table = pd.read_parquet(folder / "out" / chosen[0]["id"] / "features.parquet")
    assert said["scans"] == said["of"] == len(table) == 16 and said["columns"] == ["diagnosis", "site", "age"]
    assert table["set"].value_counts().to_dict() == {"test": 10, "validation": 6}
    assert list(table)[:9] == ["scan_id", "person", "set", "pc1", "pc2", "tsne1", "tsne2", "umap1", "umap2"]
    assert table.drop(columns=["site"]).notna().all().all() and said["neighbours"] == 15
    people = make_people("clinic", 26, seed=1).set_index("scan_id")
    assert (people.loc[table["scan_id"], "age"].to_numpy() == table["age"].to_numpy()).all()


def test_an_autoencoder_behind_a_model_shows_scans_that_it_never_saw_and_its_code(world):
    folder, _, chosen = world
    said = read_json(folder / "out" / chosen[0]["id"] / "explain.json")["reconstructions"]
    one = said["networks"][0]
    assert said["status"] == "ok" and one["network"] == chosen[0]["init"] and len(one["scans"]) == 4
    assert (folder / "out" / chosen[0]["id"] / one["png"]).stat().st_size < 150_000
    assert one["code"]["scans"] == 10 and one["code"]["numbers"] == 64
    assert sum(one["code"]["values"]["counts"]) == 10 * 64 and one["error"] > 0
    held_out = set(pd.read_parquet(folder / "job" / "table-test.parquet")["scan_id"])
    assert set(one["scans"]) <= held_out
    none = read_json(folder / "out" / chosen[1]["id"] / "explain.json")["reconstructions"]
    assert none["status"] == "left out" and "no decoder" in none["reason"]


def test_explaining_again_writes_the_same_bytes_and_asks_for_no_method(world, tmp_path):
    folder, inputs, chosen = world
    explain(inputs, chosen[:1], Evaluate(explain=["grad_cam"], explained=6), tmp_path / "again", CPU)
    explain(inputs, chosen[:1], Evaluate(), tmp_path / "none", CPU)
    name = chosen[0]["id"]
    for file in ("grad-cam-1.png", "grad-cam-1.nii.gz", "features.parquet"):
        assert (tmp_path / "again" / name / file).read_bytes() == (folder / "out" / name / file).read_bytes()
    said = read_json(tmp_path / "none" / name / "explain.json")
    assert said["methods"] == {} and said["features"]["status"] == "ok"
    assert sorted(path.suffix for path in (tmp_path / "none" / name).iterdir()) == [".json", ".parquet", ".png"]


def test_harmonised_scores_of_test_people_are_those_that_probing_gives_of_people_of_validation(world, tmp_path):
    """A frozen network's features are its encoder's: of test people in the place of validation PROBE tells the same."""
    folder, inputs, chosen = world
    people = roles(make_people("clinic", 26, seed=1), 6, 10)
    people["times"] = np.where(np.arange(26) % 4 == 1, 2, 1)
    trial = trial_line(stage("finetune", "diagnosis", epochs=1, strategy="frozen"), init=chosen[0]["init"])
    pack_job(tmp_path / "job", people, [trial])
    finetune(tmp_path / "job", folder / "store", folder / "encoders", tmp_path / "models", Settings(CPU))
    torch.use_deterministic_algorithms(False)
    cohort = people[["scan_id", "age"]].assign(site=np.where(np.arange(26) % 3 == 0, "north", "south"))
    cohort.to_parquet(tmp_path / "cohort.parquet")
    asked = Evaluate(probe=True, harmonise="site", keeping=["age"], bootstrap=100)
    columns = {"site": {"kind": "classification"}, "age": {"kind": "regression"}}
    line = chosen[0] | {"id": trial["id"], "metric": "mcc", "columns": columns}
    own = Inputs(tmp_path / "job", inputs.store, tmp_path / "models", inputs.encoders, tmp_path / "cohort.parquet")
    explain(own, [line], asked, tmp_path / "out", CPU)
    found = read_json(tmp_path / "out" / trial["id"] / "explain.json")["harmonised"]

    table = people[people["role"] != "validation"].merge(cohort[["scan_id", "site"]])
    table["role"] = table["role"].replace("test", "validation")
    write_parquet(tmp_path / "probe" / "table.parquet", table)
    facts = read_json(tmp_path / "job" / "job.json") | {"target": "diagnosis", "columns": columns, "starts": []}
    write_json(tmp_path / "probe" / "job.json", facts)
    probe(tmp_path / "probe", folder / "store", folder / "encoders", tmp_path / "probed", asked, CPU)
    rows = read_json(tmp_path / "probed" / facts["id"] / "probe.json")["encoders"]
    (known,) = next(row for row in rows if row["id"] == chosen[0]["init"])["splits"]
    for part, values in (("before", known["probe"]["validation"]), ("after", known["harmonised"]["validation"])):
        measured = {name: cell["value"] for name, cell in found["test"][part].items() if name != "mcc"}
        assert measured == pytest.approx(values, abs=1e-4)
    assert found["site"] == pytest.approx(known["harmonised"]["site"]) and found["unharmonised"] == 0
    assert list(found["test"]["difference"]) == ["mcc", "balanced_accuracy", "auroc", "log_loss"]
    assert found["n"] == {"train": 10, "test": 10, "persons": 10} and found["status"] == "ok"


def test_networks_whose_encoder_moved_are_not_harmonised_and_nobody_is_who_was_not_asked_for(world, tmp_path):
    folder, inputs, chosen = world
    for trial in chosen:
        assert read_json(folder / "out" / trial["id"] / "explain.json")["harmonised"] is None
    asked = Evaluate(probe=True, harmonise="site")
    explain(inputs, chosen[:1], asked, tmp_path / "out", CPU)
    found = read_json(tmp_path / "out" / chosen[0]["id"] / "explain.json")["harmonised"]
    assert found["status"] == "left out" and "(strategy full)" in found["reason"] and found["test"] is None


def test_a_masked_autoencoder_fills_what_it_was_not_shown_and_nothing_else(world, tmp_path):
    lifespan = make_people("lifespan", 16)
    vit = {"class_path": "ViT", "init_args": {"dims": 2, "hidden_size": 24, "layers": 1, "heads": 2, "patch_size": 4}}
    arguments = {"width": 16, "depth": 1, "attentions": 2}
    primary = {"primary": {"class_path": "MaskedAutoencoder", "init_args": arguments}}
    one = stage("pretrain", "age", epochs=1, objective=primary) | {"targets": []}
    pretrain_job(tmp_path / "job", roles(lifespan, 3, 3), one, vit)
    encoder = pretrain(tmp_path / "job", world[0] / "store", None, tmp_path / "encoders", Settings(CPU))
    torch.use_deterministic_algorithms(False)
    images = torch.randn(3, 1, 16, 18) + 1
    found = rebuilt(read_autoencoder(encoder), images)
    shown = found.shown != 0
    assert torch.equal(found.made[shown], images[shown]) and torch.equal(found.shown[shown], images[shown])
    assert 0 < shown.float().mean() < 0.4 and not torch.equal(found.made, images)
    (encoder / "objective.safetensors").unlink()
    with pytest.raises(DoesNotApply):
        read_autoencoder(encoder)


def test_commands_say_what_they_need():
    for command in ("tlimb_select.py", "tlimb_explain.py"):
        done = subprocess.run([sys.executable, ROOT / "bin" / command, "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and "--store" in done.stdout
