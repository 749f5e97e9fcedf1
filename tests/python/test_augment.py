"""Augmentations: each image is changed by its own draws alone, and as the formula in another library says."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.interpolate import BSpline
from scipy.spatial.transform import Rotation

from tlimb import registry
from tlimb.data.augment.affine import RandomAffine
from tlimb.data.augment.augmentation import of_item
from tlimb.data.augment.bias_field import RandomBiasField
from tlimb.data.augment.blur import RandomBlur
from tlimb.data.augment.cutout import RandomCutout
from tlimb.data.augment.elastic import FOLDING, RandomElastic
from tlimb.data.augment.flip import RandomFlip
from tlimb.data.augment.gamma import RandomGamma
from tlimb.data.augment.ghosting import RandomGhosting
from tlimb.data.augment.mixup import Mixed, MixUp
from tlimb.data.augment.motion import RandomMotion
from tlimb.data.augment.noise import RandomNoise
from tlimb.errors import InputError

VOLUMES, SLICES, SERIES = (6, 1, 12, 15, 10), (6, 3, 14, 11), (6, 5, 40)
EVERY = [
    RandomAffine(0.6, shear=0.1),
    RandomAffine(1.0, degrees=[5, 30], padding="border"),
    RandomFlip(0.5, axes=[1, 0]),
    RandomElastic(0.6, displacement=2, spacing=5),
    RandomNoise(0.6),
    RandomNoise(1.0, distribution="rician"),
    RandomBlur(0.6),
    RandomBiasField(0.6),
    RandomGamma(0.6),
    RandomCutout(0.6, count=2),
    RandomGhosting(0.8),
    RandomMotion(0.8, movements=3),
    MixUp(0.6, alpha=0.4),
]
NOTHING = [
    RandomAffine(1.0, degrees=0, scale=0, translation=0),
    RandomElastic(1.0, displacement=0),
    RandomNoise(1.0, sd=0),
    RandomNoise(1.0, sd=0, distribution="rician"),
    RandomBlur(1.0, sigma=0),
    RandomBiasField(1.0, coefficients=0),
    RandomGamma(1.0, log_gamma=0),
    RandomCutout(1.0, size=0),
    RandomGhosting(1.0, intensity=0),
    RandomGhosting(1.0, restore=1.0),
    RandomMotion(1.0, degrees=0, translation=0),
]
ARTEFACTS = [
    RandomNoise(1.0, sd=[0.5, 1.0]),
    RandomNoise(1.0, sd=[0.5, 1.0], distribution="rician"),
    RandomBlur(1.0, sigma=[1.0, 2.0]),
    RandomBiasField(1.0),
    RandomGamma(1.0),
    RandomGhosting(1.0, ghosts=[2, 4]),
    RandomMotion(1.0),
]
WITH_SHAPES = [
    (augment, shape) for augment in EVERY for shape in (VOLUMES, SLICES, SERIES) if len(shape) - 2 in augment.spatial
]


def named(value) -> str:
    """A name for a parametrised test."""
    return type(value).__name__ if hasattr(value, "draw") else f"{len(value) - 2}d"


def images_of(shape, seed=0) -> torch.Tensor:
    """Standard normal images without a zero in them."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def masked(shape) -> torch.Tensor:
    """Images that are 0 outside of an ellipse, as a recipe leaves them."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape[2:]], indexing="ij")
    return images_of(shape) * torch.tensor(sum(axis**2 for axis in axes) < 0.7)


def drawn_with(augment, seed, shape) -> dict:
    """What the augmentation draws under a seed."""
    torch.manual_seed(seed)
    return augment.draw(shape)


def centred(shape) -> np.ndarray:
    """The index of the centre of an image of this shape."""
    return (np.array(shape) - 1) / 2


@pytest.mark.parametrize("augment, shape", WITH_SHAPES, ids=named)
def test_a_batch_equals_the_replay_of_each_item(augment, shape):
    images, drawn = images_of(shape), drawn_with(augment, 3, shape)
    together = augment.apply(images, drawn)
    if isinstance(augment, MixUp):
        pairs = [images[[item, int(drawn["partner"][item])]] for item in range(len(images))]
        alone = [augment.apply(pair, pair_of(drawn, item))[:1] for item, pair in enumerate(pairs)]
    else:
        alone = [augment.apply(images[item : item + 1], of_item(drawn, item)) for item in range(len(images))]
    assert together.shape == images.shape and together.dtype == torch.float32
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert not torch.equal(together, images)


def pair_of(drawn, item) -> dict:
    """The draws of MixUp for an image and its partner behind it."""
    return {"partner": torch.tensor([1, 0]), "weight": drawn["weight"][item].repeat(2)}


@pytest.mark.parametrize("augment, shape", WITH_SHAPES, ids=named)
def test_the_seed_decides_everything_and_the_batch_itself_is_left_alone(augment, shape):
    images, results = images_of(shape), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(augment(images, [torch.zeros(len(images))])[0])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(images, images_of(shape))
    assert torch.equal(results[0], augment.apply(images, drawn_with(augment, 1, shape)))


@pytest.mark.parametrize("augment", NOTHING, ids=named)
def test_zero_strength_is_identity(augment):
    for shape in (VOLUMES, SLICES):
        images = masked(shape)
        torch.testing.assert_close(augment(images, [])[0], images, rtol=0, atol=3e-5)


def test_zero_probability_changes_nothing_and_one_changes_every_image():
    images = images_of(VOLUMES)
    for augment in EVERY:
        augment = type(augment)(probability=0.0)
        assert torch.equal(augment(images, [torch.zeros(6)])[0], images)
    for augment in (RandomAffine(1.0), RandomNoise(1.0), RandomFlip(1.0), RandomGamma(1.0)):
        changed = augment(images, [])[0] != images
        assert changed.flatten(1).any(dim=1).all()


def test_the_probability_is_that_of_each_image_by_itself():
    torch.manual_seed(0)
    images = torch.ones(2000, 1, 4)
    changed = (RandomCutout(0.3, size=[1, 1])(images, [])[0] != 1).flatten(1).any(dim=1)
    assert 0.26 < float(changed.float().mean()) < 0.34


@pytest.mark.parametrize("augment", ARTEFACTS, ids=named)
def test_what_is_outside_of_the_brain_mask_stays_zero(augment):
    images = masked(VOLUMES)
    changed, _ = augment(images, [])
    assert torch.equal(changed[images == 0], torch.zeros_like(changed[images == 0]))
    assert not torch.allclose(changed, images)


def test_labels_pass_through_as_they_are():
    labels = [torch.tensor([1.0, float("nan"), 3.0, 4.0, 5.0, 6.0])]
    for augment in EVERY[:-1]:
        assert augment(images_of(SLICES), labels)[1] is labels


def test_affine_is_that_of_scipy():
    for shape, zoom in ((VOLUMES, 0.2), (SLICES, 0.2)):
        augment = RandomAffine(1.0, degrees=25, scale=zoom, shear=0.2, translation=2)
        images, drawn = images_of(shape), drawn_with(augment, 0, shape)
        result = augment.apply(images, drawn).numpy()
        for item in range(2):
            degrees, factors, shear, moved = (drawn[name][item].double().numpy() for name in list(drawn)[1:])
            sheared = np.eye(len(factors))
            sheared[np.triu_indices(len(factors), 1)] = shear
            forward = turned(degrees) @ sheared @ np.diag(factors)
            back, centre = np.linalg.inv(forward), centred(shape[2:])
            offset = centre - back @ (centre + moved)
            for channel in range(shape[1]):
                image = images[item, channel].double().numpy()
                darkest = images[item].min().item()
                expected = ndimage.affine_transform(image - darkest, back, offset, order=1, mode="grid-constant")
                seen = ndimage.affine_transform(np.ones_like(image), back, offset, order=0, mode="grid-constant")
                np.testing.assert_allclose(result[item, channel], (expected + darkest) * seen, atol=2e-4)


def turned(degrees) -> np.ndarray:
    """The rotation matrix of one angle in the plane, or of three about x, then y, then z."""
    if len(degrees) == 1:
        return Rotation.from_euler("z", degrees[0], degrees=True).as_matrix()[:2, :2]
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()


def test_a_translation_by_whole_voxels_moves_them_and_a_larger_scale_enlarges():
    images = images_of(VOLUMES)
    drawn = {"chosen": torch.ones(6, dtype=torch.bool), "degrees": torch.zeros(6, 3), "scale": torch.ones(6, 3)}
    drawn |= {"shear": torch.zeros(6, 3), "translation": torch.tensor([[2.0, 0.0, -1.0]]).repeat(6, 1)}
    moved = RandomAffine().apply(images, drawn)
    torch.testing.assert_close(moved[:, :, 2:, :, :-1], images[:, :, :-2, :, 1:], rtol=0, atol=1e-4)
    assert not moved[:, :, :2].any()
    ball = masked(VOLUMES).ne(0).float()
    larger = RandomAffine().apply(ball, drawn | {"scale": torch.full((6, 3), 1.3), "translation": torch.zeros(6, 3)})
    assert larger.sum() > 1.5 * ball.sum()


@pytest.mark.parametrize("augment", [RandomAffine(1.0), RandomElastic(1.0)], ids=named)
def test_a_moved_brain_mask_keeps_its_edge_and_gets_no_rim_of_the_brains_mean(augment):
    dark = masked(VOLUMES).ne(0).float() * -1.7
    moved, _ = augment(dark, [])
    assert set(moved.mul(1000).round().unique().tolist()) == {-1700.0, 0.0}
    assert not torch.equal(moved, dark)


def test_flip_mirrors_whole_axes():
    augment = RandomFlip(0.5, axes=[0, 2])
    images, drawn = images_of(VOLUMES), drawn_with(augment, 0, VOLUMES)
    expected = images.numpy().copy()
    for item, (first, last) in enumerate(drawn["flipped"].tolist()):
        expected[item] = expected[item, :, :: -1 if first else 1, :, :: -1 if last else 1]
    assert np.array_equal(augment.apply(images, drawn).numpy(), expected)
    assert 0 < drawn["flipped"].float().mean() < 1


def test_elastic_field_is_scipys_cubic_spline():
    augment = RandomElastic(1.0, displacement=2, spacing=5)
    drawn = drawn_with(augment, 0, (2, 1, 13, 17, 8))
    field = augment.field(drawn["knots"].double(), (13, 17, 8)).numpy()
    knots = drawn["knots"][1, 2].double().numpy()
    for axis, size in enumerate((13, 17, 8)):
        places = 5.0 * (np.arange(knots.shape[axis] + 4) - 3)
        knots = BSpline(places, np.moveaxis(knots, axis, 0), 3)(np.arange(size))
        knots = np.moveaxis(knots, 0, axis)
    np.testing.assert_allclose(field[1, 2], knots, atol=1e-5)


def test_elastic_samples_where_its_field_says():
    augment = RandomElastic(1.0, displacement=2, spacing=5)
    images, drawn = images_of(VOLUMES), drawn_with(augment, 0, VOLUMES)
    field = augment.field(drawn["knots"], VOLUMES[2:])[1].double().numpy()
    places = np.indices(VOLUMES[2:]) + field
    expected = ndimage.map_coordinates(images[1, 0].double().numpy(), places, order=1, mode="nearest")
    np.testing.assert_allclose(augment.apply(images, drawn)[1, 0].numpy(), expected, atol=2e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 12), st.floats(0.1, 1.0), st.integers(0, 99), st.tuples(*[st.integers(4, 20)] * 3))
def test_elastic_displaces_no_further_than_it_says_and_never_folds(spacing, share, seed, sizes):
    augment = RandomElastic(1.0, displacement=share * spacing / FOLDING, spacing=spacing)
    field = augment.field(drawn_with(augment, seed, (2, 1, *sizes))["knots"], sizes).numpy()
    assert np.abs(field).max() <= augment.displacement * (1 + 1e-5)
    slopes = np.stack([np.stack(np.gradient(field[:, axis], axis=(1, 2, 3)), -1) for axis in range(3)], -2)
    assert (np.linalg.det(np.eye(3) + slopes) > 0).all()


def test_gaussian_noise_has_its_standard_deviation_and_no_pattern():
    augment = RandomNoise(1.0, sd=[0.5, 1.5])
    images, drawn = images_of((4, 2, 40, 40, 40)), drawn_with(augment, 0, (4, 2, 40, 40, 40))
    noise = (augment.apply(images, drawn) - images).numpy()
    np.testing.assert_allclose(noise.std(axis=(1, 2, 3, 4)), drawn["sd"].numpy(), rtol=0.02)
    assert np.abs(np.corrcoef(noise.reshape(8, -1)) - np.eye(8)).max() < 0.02


def test_rician_noise_is_the_magnitude_of_a_noisy_complex_signal():
    augment = RandomNoise(1.0, sd=[0.4, 0.4], distribution="rician")
    images = torch.full((1, 1, 60, 60, 60), 1.5)
    images[..., :30] = -1.0
    noisy = augment(images, [])[0].double().numpy()
    assert (noisy >= -1 - 1e-6).all()
    # Without a signal the magnitude is Rayleigh distributed; its square has mean m^2 + 2 s^2 everywhere.
    assert noisy[..., :30].mean() + 1 == pytest.approx(0.4 * np.sqrt(np.pi / 2), rel=0.01)
    assert ((noisy[..., 30:] + 1) ** 2).mean() == pytest.approx(2.5**2 + 2 * 0.4**2, rel=0.01)


def test_blur_is_that_of_scipy():
    for shape in (VOLUMES, SLICES):
        augment = RandomBlur(1.0, sigma=[0.3, 2.5])
        images, drawn = images_of(shape), drawn_with(augment, 0, shape)
        result = augment.apply(images, drawn).numpy()
        for item, sigma in enumerate(drawn["sigma"].tolist()):
            sigmas = (0, *[sigma] * (len(shape) - 2))
            expected = ndimage.gaussian_filter(images[item].double().numpy(), sigmas, mode="nearest", truncate=8)
            np.testing.assert_allclose(result[item], expected, atol=1e-4)


def test_bias_field_is_the_exponential_of_a_polynomial_times_the_signal():
    augment = RandomBiasField(1.0, coefficients=0.4, order=2)
    images, drawn = masked(VOLUMES), drawn_with(augment, 0, VOLUMES)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in VOLUMES[2:]], indexing="ij")
    c, image = drawn["coefficients"][2].double().numpy(), images[2, 0].double().numpy()
    first = c[1, 0, 0] * x + c[0, 1, 0] * y + c[0, 0, 1] * z
    second = c[2, 0, 0] * x**2 + c[0, 2, 0] * y**2 + c[0, 0, 2] * z**2
    mixed = c[1, 1, 0] * x * y + c[1, 0, 1] * x * z + c[0, 1, 1] * y * z
    signal = image - image.min()
    expected = np.where(image != 0, signal * np.exp(first + second + mixed) + image.min(), 0)
    np.testing.assert_allclose(augment.apply(images, drawn)[2, 0].numpy(), expected, atol=1e-5)


def test_a_signal_without_negative_values_counts_from_zero():
    augment = RandomBiasField(1.0, coefficients=0.4)
    images, drawn = images_of(SLICES).abs() + 1, drawn_with(augment, 0, SLICES)
    field = augment.apply(torch.ones(SLICES), drawn)
    torch.testing.assert_close(augment.apply(images, drawn), images * field)
    assert field.std() > 0.01


def test_gamma_is_the_power_of_the_magnitude_with_the_sign():
    augment = RandomGamma(1.0, log_gamma=0.5)
    images, drawn = masked(SERIES), drawn_with(augment, 0, SERIES)
    power = np.exp(drawn["log_gamma"].double().numpy())[:, None, None]
    expected = np.sign(images.numpy()) * np.abs(images.double().numpy()) ** power
    np.testing.assert_allclose(augment.apply(images, drawn).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_cutout_sets_boxes_to_zero_and_nothing_else():
    augment = RandomCutout(1.0, count=2, size=[0.2, 0.5])
    for shape in (VOLUMES, SLICES, SERIES):
        images, drawn = images_of(shape), drawn_with(augment, 0, shape)
        expected = images.numpy().copy()
        for item in range(len(images)):
            for centre, size in zip(drawn["centre"][item].numpy(), drawn["size"][item].numpy()):
                places = [(np.arange(length) + 0.5) / length for length in shape[2:]]
                inside = [(c - s / 2 <= place) & (place < c + s / 2) for place, c, s in zip(places, centre, size)]
                expected[(item, slice(None), *np.ix_(*inside))] = 0
        assert np.array_equal(augment.apply(images, drawn).numpy(), expected)
        assert (expected == 0).any() and (expected != 0).any()


def test_ghosts_are_shifted_copies():
    augment = RandomGhosting(1.0, ghosts=[4, 4], intensity=[0.6, 0.6], axes=[1])
    images = images_of((3, 1, 10, 32, 8))
    x = images.double().numpy()
    copies = sum(np.roll(x, 8 * step, axis=3) for step in range(4))
    expected = x - 0.6 / 4 * copies + 0.6 * x.mean(axis=3, keepdims=True)
    # Ghosts are those of the signal, which has no value below 0; a constant's only line is the centre, which is kept.
    np.testing.assert_allclose(augment(images, [])[0].numpy(), expected, atol=1e-5)


def test_ghosting_weakens_every_nth_line_of_k_space_but_its_centre():
    augment = RandomGhosting(1.0, ghosts=[3, 3], intensity=[0.5, 0.5], restore=0.25, axes=[0])
    images = images_of((2, 1, 33, 8, 8))
    before = np.fft.fft(images.double().numpy(), axis=2)
    after = np.fft.fft(augment(images, [])[0].double().numpy(), axis=2)
    frequency = np.abs(np.fft.fftfreq(33, 1 / 33))
    weights = np.where((frequency % 3 == 0) & (frequency > 0.25 * 33 / 2), 0.5, 1.0)
    np.testing.assert_allclose(after, before * weights[:, None, None], atol=1e-4)
    assert set(weights) == {0.5, 1.0}


@pytest.mark.parametrize("size", [16, 15])
def test_motion_fills_k_space_from_the_pose_of_each_time(size):
    augment = RandomMotion(1.0, movements=3, axes=[1])
    images, drawn = images_of((4, 1, 12, size, 10)), drawn_with(augment, 5, (4, 1, 12, size, 10))
    result = augment.apply(images, drawn).numpy()
    for item in range(4):
        image = images[item, 0].double().numpy()
        image = image - image.min()
        poses = [posed(image, drawn["degrees"][item, pose], drawn["translation"][item, pose]) for pose in range(3)]
        spectra = [np.fft.fftshift(np.fft.fft(pose, axis=1), axes=1) for pose in poses]
        period = ((np.arange(size)[:, None] + 0.5) / size >= drawn["times"][item].numpy()).sum(axis=1)
        spectra.insert(period[size // 2], np.fft.fftshift(np.fft.fft(image, axis=1), axes=1))
        filled = np.stack([spectra[period[line]][:, line] for line in range(size)], axis=1)
        expected = np.fft.ifft(np.fft.ifftshift(filled, axes=1), axis=1).real + images[item].min().item()
        np.testing.assert_allclose(result[item, 0], expected, atol=2e-3)


def posed(image, degrees, translation) -> np.ndarray:
    """An image turned about its centre and moved."""
    back, centre = turned(degrees.double().numpy()).T, centred(image.shape)
    offset = centre - back @ (centre + translation.double().numpy())
    return ndimage.affine_transform(image, back, offset, order=1, mode="nearest")


def test_mixup_mixes_pairs_and_its_labels_remember_them():
    images, age = images_of(VOLUMES), torch.tensor([1.0, 2.0, float("nan"), 4.0, 5.0, 6.0])
    augment = MixUp(1.0, alpha=1.0)
    drawn = drawn_with(augment, 0, VOLUMES)
    torch.manual_seed(0)
    mixed, labels = augment(images, [age])
    weight, partner = drawn["weight"].numpy().reshape(-1, 1, 1, 1, 1), drawn["partner"].numpy()
    x = images.numpy()
    np.testing.assert_allclose(mixed.numpy(), weight * x + (1 - weight) * x[partner], atol=1e-6)
    assert isinstance(labels, Mixed) and torch.equal(labels.weight, drawn["weight"])
    np.testing.assert_array_equal(labels.partner[0].numpy(), age.numpy()[partner])
    np.testing.assert_array_equal(labels.labels[0].numpy(), age.numpy())
    assert sorted(partner) == list(range(6))


def test_mixup_weights_are_of_the_beta_distribution():
    torch.manual_seed(0)
    weight = MixUp(1.0, alpha=0.4).draw((20000, 1, 4))["weight"].double()
    assert float(weight.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(weight.var()) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.03)
    assert MixUp(0.25).draw((20000, 1, 4))["weight"].eq(1).float().mean() == pytest.approx(0.75, abs=0.02)


def test_mixup_stands_only_once():
    batch = MixUp()(images_of(SERIES), [torch.zeros(6)])
    assert MixUp()(images_of(SERIES), [torch.zeros(6)])[1].weight.isfinite().all()
    with pytest.raises(InputError, match="mixed already"):
        MixUp()(*batch)


@pytest.mark.parametrize("augment", [augment for augment in EVERY if 1 not in augment.spatial], ids=named)
def test_a_batch_of_another_layout_is_an_error_that_names_class_and_dimensions(augment):
    with pytest.raises(InputError, match=rf"{type(augment).__name__}: expected slices .* or volumes .*\(6, 5, 40\)"):
        augment(images_of(SERIES), [])


def test_an_axis_that_the_images_lack_is_an_error():
    for augment in (RandomFlip(axes=[2]), RandomGhosting(axes=[0, 2]), RandomMotion(axes=[2])):
        with pytest.raises(InputError, match=f"{type(augment).__name__}: axes: there is no axis 2 in slices"):
            augment(images_of(SLICES), [])


def test_all_that_is_wrong_with_the_arguments_is_said_at_once():
    with pytest.raises(InputError) as raised:
        RandomAffine(probability=1.5, degrees=-3, scale=[0.2, 0.1], padding="mirror")
    places = [problem.where for problem in raised.value.problems]
    assert places == [f"augment RandomAffine: {name}" for name in ("probability", "degrees", "scale", "padding")]
    with pytest.raises(InputError, match="fold space; at most 2.02 with knots 5 apart"):
        RandomElastic(displacement=3.0, spacing=5)
    for wrong in ({"sd": -1}, {"sd": [0.1, 0.2, 0.3]}, {"distribution": "poisson"}):
        with pytest.raises(InputError, match=f"RandomNoise: {list(wrong)[0]}"):
            RandomNoise(**wrong)


def test_every_short_name_is_a_class_whose_defaults_pass_the_check_of_a_sweep():
    for name in registry.SHORT_NAMES["augment"]:
        found = registry.load("augment", name)
        defaults = {key: value.default for key, value in inspect.signature(found).parameters.items()}
        assert defaults and inspect.Parameter.empty not in defaults.values()
        assert registry.check("augment", name, defaults, name) == []
        assert registry.check("augment", name, {"probability": "often"}, name) != []
        found(**defaults)
