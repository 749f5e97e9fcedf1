"""What a network sees: crops and slices, labels and their scaling, batches and their order."""

import inspect
import math
from pathlib import Path

import numpy as np
import own_data
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from training_jobs import LABELS, make_people, make_store, stage

from tlimb.data.bioimage import BioImageDataModule
from tlimb.data.dataset import Batches, EpochOrder, ScanDataset, fetch, loader
from tlimb.data.hooks import load_hook
from tlimb.data.images import Images
from tlimb.data.modules import BaseDataModule, CropCenterDataModule, resized
from tlimb.data.show import show_command, show_samples
from tlimb.data.targets import Target, fit_targets
from tlimb.data.view import build_module, build_view, may_stay_on_gpu
from tlimb.errors import InputError
from tlimb.store import Store

VOLUME = np.arange(4 * 6 * 8).reshape(4, 6, 8)


def seen(module) -> np.ndarray:
    return module.arrange(VOLUME[None][(slice(None), *module.box(VOLUME.shape))])[0]


def test_a_whole_volume_is_one_channel():
    assert np.array_equal(seen(BaseDataModule()), VOLUME[None])
    assert BaseDataModule().input_shape(VOLUME.shape) == (1, 4, 6, 8)


@pytest.mark.parametrize(
    ("plane", "expected"), [("axial", VOLUME[:, :, 2:5]), ("coronal", VOLUME[:, 1:4]), ("sagittal", VOLUME[0:3])]
)
def test_central_slices_become_channels(plane, expected):
    module = CropCenterDataModule(slices=plane, count=3)
    axis = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    assert np.array_equal(seen(module), np.moveaxis(expected, axis, 0))
    assert module.input_shape(VOLUME.shape) == seen(module).shape


def test_a_centre_may_be_cut_from_a_volume_or_a_slice():
    assert np.array_equal(seen(CropCenterDataModule(size=[2, 2, 4])), VOLUME[None, 1:3, 2:4, 2:6])
    assert np.array_equal(seen(CropCenterDataModule(size=[2, 4], slices="axial")), VOLUME[None, 1:3, 1:5, 3])


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": [2, 2]},
        {"size": [2, 2, 2], "slices": "axial"},
        {"count": 2},
        {"slices": "axial", "count": 0},
        {"slices": "axial", "count": 2, "start": 1},
        {"slices": "axial", "start": 5, "stop": 3},
        {"stop": 3},
    ],
)
def test_impossible_crops_are_refused(arguments):
    with pytest.raises(InputError):
        CropCenterDataModule(**arguments)


def test_a_crop_larger_than_the_volume_is_refused_with_both_sizes():
    with pytest.raises(InputError, match="5x2x2 voxels do not fit volumes of 4x6x8"):
        CropCenterDataModule(size=[5, 2, 2]).box(VOLUME.shape)


def test_a_range_of_slices_is_taken_along_any_axis():
    ranged = CropCenterDataModule(slices="axial", start=1, stop=8, step=3)
    assert np.array_equal(seen(ranged), np.moveaxis(VOLUME[:, :, [1, 4, 7]], 2, 0))
    assert np.array_equal(seen(CropCenterDataModule(slices="coronal", stop=2)), np.moveaxis(VOLUME[:, :2], 1, 0))
    central = CropCenterDataModule(size=[2, 2], slices="axial", count=3, step=2)
    assert np.array_equal(seen(central), np.moveaxis(VOLUME[1:3, 2:4, [1, 3, 5]], 2, 0))
    assert ranged.input_shape(VOLUME.shape) == (3, 4, 6)
    with pytest.raises(InputError, match="slices 5 to 8 are wanted, and volumes have 8 axial slices"):
        CropCenterDataModule(slices="axial", start=5, stop=9).box(VOLUME.shape)


def test_a_volume_smaller_than_the_crop_is_padded_where_asked_for():
    padded = seen(CropCenterDataModule(size=[7, 2, 8], pad=True))
    assert padded.shape == (1, 7, 2, 8)
    assert np.array_equal(padded[:, 1:5], VOLUME[None, :, 2:4]) and not padded[:, [0, 5, 6]].any()
    flat = seen(CropCenterDataModule(size=[6, 6], slices="axial", pad=True))
    assert np.array_equal(flat[0, 1:5], VOLUME[:, :, 3]) and flat.shape == (1, 6, 6)


@pytest.mark.parametrize("zoom", [0.5, 1.25, 1.5])
def test_zoom_is_scipys_linear_zoom_between_the_same_edges(zoom):
    volume = np.random.default_rng(0).normal(size=(12, 10, 8)).astype("float32")
    expected = ndimage.zoom(volume, zoom, order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(resized(volume[None], zoom)[0], expected, atol=1e-5)
    assert BaseDataModule(zoom=zoom).input_shape(volume.shape) == (1, *expected.shape)


def test_half_the_zoom_is_the_mean_of_eight_voxels():
    small = resized(VOLUME[None].astype("float16"), 0.5)[0]
    np.testing.assert_allclose(small, VOLUME.reshape(2, 2, 3, 2, 4, 2).mean(axis=(1, 3, 5)))
    with pytest.raises(InputError, match="module.init_args.zoom"):
        BaseDataModule(zoom=0)


@pytest.mark.parametrize("zoom", [0.25, 0.3, 0.7])
def test_a_smaller_voxel_grid_is_the_mean_of_all_that_each_voxel_covers(zoom):
    volume = np.random.default_rng(0).normal(size=(12, 10, 8)).astype("float32")
    found = resized(volume[None], zoom)[0]
    assert found.shape == tuple(round(size * zoom) for size in volume.shape)
    for place in np.ndindex(found.shape):
        box = [
            slice(math.floor(i * have / want), math.ceil((i + 1) * have / want))
            for i, have, want in zip(place, volume.shape, found.shape)
        ]
        assert found[place] == pytest.approx(volume[tuple(box)].mean(), abs=1e-5)


@pytest.mark.parametrize("place", range(4))
def test_no_voxel_is_lost_where_a_volume_becomes_much_smaller(place):
    volume = np.zeros((1, 8, 8, 8), dtype="float16")
    volume[:, :, :, place] = 1
    assert resized(volume, 0.25).mean() == volume.mean(dtype="float64") == 1 / 8


def presented(module, training: bool, n: int = 5) -> torch.Tensor:
    boxes = np.repeat(VOLUME[None][(slice(None), *module.box(VOLUME.shape))], n, axis=0)
    return module.present(torch.from_numpy(module.arrange(boxes)), training)


def test_the_general_module_crops_anywhere_and_pads_beyond_the_image():
    assert np.array_equal(seen(BioImageDataModule(size=[2, 2, 4])), seen(CropCenterDataModule(size=[2, 2, 4])))
    corner = BioImageDataModule(size=[2, 3, 4], centre=[0, 0.5, 1])
    assert np.array_equal(seen(corner), VOLUME[None, 0:2, 1:4, 4:8])
    assert np.array_equal(seen(BioImageDataModule(size=[6, 6, 8]))[:, 1:5], VOLUME[None])
    assert np.array_equal(seen(BioImageDataModule()), VOLUME[None])


def test_a_plane_of_the_general_module_becomes_channels_and_a_2d_image_is_one():
    slab = BioImageDataModule(size=[4, 6, 2], channels="axial")
    assert np.array_equal(seen(slab), np.moveaxis(VOLUME[:, :, 3:5], 2, 0))
    assert BioImageDataModule(channels="axial").input_shape((64, 48, 1)) == (1, 64, 48)


@pytest.mark.parametrize("channels", [None, "coronal"])
def test_crops_move_in_training_alone_and_stay_within_the_image(channels):
    module = BioImageDataModule(size=[2, 2, 4], shift=9, channels=channels)
    still = presented(module, training=False)
    assert np.array_equal(still[0], seen(BioImageDataModule(size=[2, 2, 4], channels=channels)))
    torch.manual_seed(0)
    moved = presented(module, training=True, n=2000)
    assert moved.shape[1:] == still.shape[1:] == module.input_shape(VOLUME.shape)
    assert len({image.numpy().tobytes() for image in moved}) == 3 * 5 * 5
    for axis, step in enumerate([8, 48, 1] if channels else [48, 8, 1]):
        assert (moved.reshape(len(moved), *still.shape[-3:]).diff(dim=axis + 1) == step).all()
    assert module.augments() and not BioImageDataModule(size=[2, 2, 4]).augments()


@pytest.mark.parametrize(
    "arguments",
    [{"size": [2, 2]}, {"size": [2, 2, 2], "centre": [2, 0, 0]}, {"shift": 1}, {"size": [2, 2, 2], "shift": -1}],
)
def test_impossible_parts_are_refused(arguments):
    with pytest.raises(InputError):
        BioImageDataModule(**arguments)


def test_images_are_the_same_from_memory_and_from_the_mapped_store(tmp_path):
    people = make_people("any", 6)
    make_store(tmp_path, people)
    store, module, scans = Store(tmp_path), CropCenterDataModule(slices="axial"), people["scan_id"].tolist()
    wanted = [scans[4], scans[0], scans[4]]
    for normalise in (None, lambda images: images / np.float32(3)):
        kept, mapped = (Images(store, module, scans, memory, normalise) for memory in (2**20, 0))
        assert torch.equal(kept(wanted), mapped(wanted)) and kept(wanted).shape == (3, 1, 16, 18)
        assert np.array_equal(np.concatenate(list(kept.blocks(wanted))), kept(wanted).numpy())


def data_of(people, tmp_path, **changes) -> tuple[Images, dict]:
    make_store(tmp_path, people)
    return Images(Store(tmp_path), BaseDataModule(), people["scan_id"]), stage("finetune", "age", **changes)["data"]


AGE = Target("age", "regression", (), 40.0, 10.0)


def test_a_dataset_that_gives_one_scan_at_a_time_makes_the_same_batches(tmp_path):
    people = make_people("any", 5)
    slow = {"class_path": "own_data.Slow", "init_args": {"factor": 2.0}}
    images, data = data_of(people, tmp_path, dataset=slow)
    own = build_view(images, data, ["own_data"]).dataset(people, [AGE])
    (batch, labels), (rest, _) = list(loader(own, range(5), 3))
    expected = fetch(ScanDataset(people, [AGE], images), [0, 1, 2])
    assert torch.equal(batch, expected[0] * 2) and torch.equal(labels[0], expected[1][0]) and len(rest) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [("Bare", "are not .image, .labels.."), ("Whole", r"labels of age .* float32 \(2,\), found torch.int64")],
)
def test_a_dataset_with_other_items_is_told_what_was_expected(tmp_path, name, message):
    people = make_people("any", 5)
    images, data = data_of(people, tmp_path, dataset={"class_path": f"own_data.{name}", "init_args": {}})
    with pytest.raises(InputError, match=message):
        build_view(images, data, ["own_data"]).dataset(people, [AGE])


def test_a_batch_passes_module_augmentation_and_hooks_in_their_order(tmp_path):
    hooks = {"on_before_batch_transfer": "own_data.brighter", "on_after_batch_transfer": "own_data.noisier"}
    jitter = [{"class_path": "own_data.Jitter", "init_args": {"strength": 0.5}}]
    module = {"class_path": "own_data.LeftHalf", "init_args": {}}
    people = make_people("any", 4)
    _, data = data_of(people, tmp_path, hooks=hooks, augment=jitter, module=module)
    images = Images(Store(tmp_path), build_module(module, ["own_data"]), people["scan_id"])
    view = build_view(images, data, ["own_data"], training=True)
    batch = images(people["scan_id"]), [torch.zeros(4)]

    torch.manual_seed(3)
    found = view.after(view.before(batch, True), True)[0]
    torch.manual_seed(3)
    expected = (batch[0] + 0.5) * torch.rand(4, 1, 1, 1, 1)
    scale = 0.5 * torch.rand(4, 1, 1, 1, 1)
    expected = expected + scale * torch.randn(expected.shape)
    assert torch.equal(found, expected + torch.randn(expected.shape))
    assert view.input_shape == (1, 8, 18, 16) and not view.stands_still()

    assert torch.equal(view.after(view.before(batch, False), False)[0], batch[0] + 0.5)
    assert not build_view(images, data, ["own_data"]).augment


def test_images_may_lie_on_the_gpu_only_where_nobody_looks_at_them_before(tmp_path):
    people = make_people("any", 2)
    _, plain = data_of(people, tmp_path)
    _, own = data_of(people, tmp_path, dataset={"class_path": "own_data.Slow", "init_args": {}})
    hooked = plain | {"hooks": plain["hooks"] | {"on_before_batch_transfer": "own_data.brighter"}}
    assert [may_stay_on_gpu(data, BaseDataModule()) for data in (plain, own, hooked)] == [True, False, False]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_data.brighter", "'own_data' is not trusted"),
        ("tlimb.data.nothing", "cannot be imported"),
        ("brighter", "import path of a function"),
    ],
)
def test_a_hook_that_cannot_be_used_is_named_by_its_place(path, message):
    with pytest.raises(InputError, match=f"data.hooks.x: .*{message}"):
        load_hook(path, "data.hooks.x")


def test_a_hook_takes_a_batch_alone_or_with_its_part():
    batch = torch.zeros(2, 1), []
    assert load_hook("own_data.brighter", "x", ["own_data"])(batch, True)[0].tolist() == [[0.5], [0.5]]
    assert load_hook("own_data.noisier", "x", ["own_data"])(batch, False)[0].tolist() == [[0], [0]]
    for training in (True, False):
        assert load_hook("own_data.scaled", "x", ["own_data"])((batch[0] + 3, []), training)[0].tolist() == [[6], [6]]
        for name in ("told", "marked"):
            found = load_hook(f"own_data.{name}", "x", ["own_data"])(batch, training)[0]
            assert found.tolist() == [[float(training)]] * 2
    assert load_hook(None, "x") is None
    with pytest.raises(InputError, match="takes neither"):
        load_hook("own_data.nothing", "x", ["own_data"])


def test_a_class_that_is_no_data_module_is_told_what_it_lacks():
    with pytest.raises(InputError, match="it has no box, arrange, on_before"):
        build_module({"class_path": "own_data.ByLargest", "init_args": {}}, ["own_data"])


def test_scaling_is_fitted_on_the_training_part_alone():
    train = pd.DataFrame({"age": [20.0, 40.0, None, 60.0]})
    (target,) = fit_targets(LABELS, ["age"], train)
    assert target.mean == 40 and target.sd == pytest.approx(np.std([20, 40, 60]))
    assert np.isnan(target.encode(train["age"])[2])
    assert target.encode(pd.Series([40.0 + target.sd]))[0] == 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(-100, 100), st.floats(0.1, 100))
def test_decoding_a_regression_undoes_encoding(values, mean, sd):
    target = Target("age", "regression", (), mean, sd)
    decoded, probabilities = target.decode(target.encode(pd.Series(values))[:, None])
    np.testing.assert_allclose(decoded, values, rtol=1e-4, atol=1e-2)
    assert probabilities is None


def test_probabilities_are_the_softmax_and_the_prediction_its_largest():
    target = Target("diagnosis", "classification", ("control", "patient"))
    prediction, probabilities = target.decode(np.array([[1000.0, 1001.0], [0.0, -2.0]], dtype="float32"))
    np.testing.assert_allclose(probabilities[:, 0], [1 / (1 + np.e), 1 / (1 + np.exp(-2))])
    assert prediction.tolist() == [1, 0]


def test_targets_that_cannot_be_learned_are_all_named():
    train = pd.DataFrame({"age": [30.0, 30.0], "diagnosis": pd.array(["patient", None], dtype="str")})
    with pytest.raises(InputError) as raised:
        fit_targets(LABELS, ["age", "diagnosis"], train)
    assert "label age" in str(raised.value) and "only the value 'patient'" in str(raised.value)


def test_an_unknown_class_is_an_error_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'patient'"):
        Target("diagnosis", "classification", ("control", "patient")).encode(pd.Series(["patent"]))


@given(n=st.integers(1, 70), size=st.integers(1, 20), epoch=st.integers(1, 5))
@settings(deadline=None)
def test_batches_hold_every_scan_once_and_none_is_alone(n, size, epoch):
    order = EpochOrder(n, seed=1, stage="finetune")
    order.epoch = epoch
    batches = list(Batches(order, size))
    assert sorted(index for batch in batches for index in batch) == list(range(n))
    assert len(batches) == len(Batches(order, size))
    assert all(len(batch) > 1 for batch in batches) or n == 1 or size == 1
    assert all(len(batch) == size for batch in batches[:-1])


def test_the_order_is_a_function_of_seed_stage_and_epoch():
    def order(seed, stage, epoch):
        sampler = EpochOrder(30, seed, stage)
        sampler.epoch = epoch
        return list(sampler)

    assert order(0, "pretrain", 2) == order(0, "pretrain", 2)
    assert (
        len(
            {
                tuple(order(*choice))
                for choice in [(0, "pretrain", 1), (0, "pretrain", 2), (1, "pretrain", 1), (0, "finetune", 1)]
            }
        )
        == 4
    )


def test_items_are_an_image_and_a_list_of_labels_and_batches_agree_with_them(tmp_path):
    people = make_people("any", 5).assign(age=[20.0, None, 40.0, 50.0, 60.0])
    make_store(tmp_path, people)
    images = Images(Store(tmp_path), BaseDataModule(), people["scan_id"])
    targets = [
        Target("age", "regression", (), 40.0, 10.0),
        Target("diagnosis", "classification", ("control", "patient")),
    ]
    dataset = ScanDataset(people, targets, images)
    image, labels = dataset[2]
    assert image.shape == (1, 16, 18, 16) and image.dtype == torch.float32
    assert [float(label) for label in labels] == [0.0, 0.0] and dataset[1][1][0].isnan()
    (batch, batch_labels), _ = list(loader(dataset, range(5), 3))
    assert torch.equal(batch[2], image) and batch_labels[1].tolist() == [0, 1, 0]


@pytest.mark.parametrize("shape", [(1, 8, 9, 10), (9, 8, 9), (6, 30)], ids=["volumes", "slices", "series"])
def test_a_picture_has_a_row_a_scan(shape):
    figure = show_samples(np.random.default_rng(0).normal(size=(2, *shape)), ["one", "two"])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title for title in titles if title] == ["one", "two"]
    assert len(figure.axes) == 2 * {4: 3, 3: 6, 2: 1}[len(shape)]


def test_show_draws_scans_of_a_store_as_the_network_sees_them(tmp_path):
    people = make_people("any", 3)
    make_store(tmp_path / "store", people)

    def show(*arguments):
        places = [str(tmp_path / "store"), "--out", str(tmp_path / "samples.png")]
        return CliRunner().invoke(show_command, [*places, *arguments])

    module = '{"class_path": "CropCenterDataModule", "init_args": {"slices": "axial"}}'
    assert show("--module", module, "--augment", '["own_data.Jitter"]', "--trusted", "own_data").exit_code == 0
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    for arguments in (["--scans", "any/nobody"], ["--module", "{"], ["--module", "CropCenter"], ["--augment", "[3]"]):
        assert show(*arguments).exit_code == 1, arguments


def test_the_documentation_shows_classes_that_these_tests_run():
    shown = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for item in ("LeftHalf", "Slow", "FirstHalf", "ByLargest", "Jitter", "brighter", "noisier"):
        assert inspect.getsource(getattr(own_data, item)).strip() in shown, item
