"""What a network sees: crops and slices, labels and their scaling, batches and their order."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_jobs import LABELS, make_people, make_store

from tlimb.data.dataset import Batches, EpochOrder, ScanDataset, loader
from tlimb.data.images import Images
from tlimb.data.modules import BaseDataModule, CropCenterDataModule
from tlimb.data.targets import Target, fit_targets
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
    [{"size": [2, 2]}, {"size": [2, 2, 2], "slices": "axial"}, {"count": 2}, {"slices": "axial", "count": 0}],
)
def test_impossible_crops_are_refused(arguments):
    with pytest.raises(InputError):
        CropCenterDataModule(**arguments)


def test_a_crop_larger_than_the_volume_is_refused_with_both_sizes():
    with pytest.raises(InputError, match="5x2x2 voxels does not fit volumes of 4x6x8"):
        CropCenterDataModule(size=[5, 2, 2]).box(VOLUME.shape)


def test_images_are_the_same_from_memory_and_from_the_mapped_store(tmp_path):
    people = make_people("any", 6)
    make_store(tmp_path, people)
    store, module, scans = Store(tmp_path), CropCenterDataModule(slices="axial"), people["scan_id"].tolist()
    kept, mapped = Images(store, module, scans), Images(store, module, scans, memory=0)
    wanted = [scans[4], scans[0], scans[4]]
    assert np.array_equal(kept(wanted), mapped(wanted)) and kept(wanted).shape == (3, 1, 16, 18)


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
