import numpy as np
import pytest
from heads import distance, pose, scanned
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from tlimb.preprocess import gauss_newton
from tlimb.preprocess.poses import about, attitudes, mutual_information, rotation
from tlimb.preprocess.register import CONVINCING, register
from tlimb.preprocess.template import load_template
from tlimb.preprocess.volume import ScanError, Volume, oriented, sample

KINDS = ("affine", "affine9", "similarity")
WIDE = (144, 160, 144)


@pytest.fixture(scope="session")
def template():
    return load_template(2.0)


def seen(world, seed, axes="RAS", **options) -> Volume:
    image = scanned(world, np.random.default_rng(seed), axes, **options)
    return oriented(Volume(image.get_fdata(dtype=np.float32), image.affine))


def error(found, world, template) -> float:
    return float(np.median(distance(found.world, world, template.brain)))


def median_error(template, world, seed, kind="affine", **options) -> float:
    found = register(seen(world, seed, **options), template, kind)
    assert found.metric < CONVINCING
    return error(found, world, template)


def random_pose(seed, **options) -> np.ndarray:
    return pose(np.random.default_rng(seed), **options)


# Scans in known places


@pytest.mark.parametrize(("seed", "axes"), [(0, "RAS"), (1, "LPS"), (2, "ASL"), (3, "IRP")])
def test_a_known_affine_is_recovered(template, seed, axes):
    world = random_pose(seed)
    found = register(seen(world, seed, axes, scalp=seed % 2 == 0), template, "affine")
    errors = distance(found.world, world, template.brain)
    assert np.median(errors) < 0.25 and errors.max() < 0.6
    assert found.metric < -0.9


@pytest.mark.parametrize("kind", ["similarity", "rigid"])
def test_a_transform_of_fewer_parameters_is_recovered_and_stays_of_its_kind(template, kind):
    world = random_pose(4, kind=kind)
    found = register(seen(world, 4, "RPS"), template, kind)
    assert error(found, world, template) < 0.25
    gram = found.world[:3, :3].T @ found.world[:3, :3]
    np.testing.assert_allclose(gram / (1 if kind == "rigid" else gram[0, 0]), np.eye(3), atol=1e-9)


def test_nine_parameters_are_a_rotation_after_a_size_along_each_of_the_templates_axes(template):
    world = random_pose(5)
    world[:3, :3] = rotation((9, -7, 11)) @ np.diag([0.88, 1.04, 0.95])
    found = register(seen(world, 5), template, "affine9")
    assert error(found, world, template) < 0.25
    sizes = np.linalg.norm(found.world[:3, :3], axis=0)
    turn = found.world[:3, :3] / sizes
    np.testing.assert_allclose(turn.T @ turn, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) > 0
    np.testing.assert_allclose(sizes, [0.88, 1.04, 0.95], atol=0.01)


def test_nine_parameters_do_not_shear(template):
    world = random_pose(6, scale=0)
    world[:3, :3] = world[:3, :3] @ [[1, 0.12, 0], [0, 1, 0], [0, 0, 1]]
    scan = seen(world, 6)
    assert error(register(scan, template, "affine"), world, template) < 0.25
    found = register(scan, template, "affine9").world[:3, :3]
    np.testing.assert_allclose(found.T @ found, np.diag((found**2).sum(0)), atol=1e-9)


def test_rigid_keeps_the_size_of_a_small_head_and_finds_its_centre_and_turn(template):
    world = random_pose(7, scale=0) @ np.diag([0.85, 0.85, 0.85, 1])
    found = register(seen(world, 7), template, "rigid")
    assert found.metric < CONVINCING
    centre = np.append(template.centre, 1)
    assert np.linalg.norm((found.world - world) @ centre) < 0.5
    turn = Rotation.from_matrix(found.world[:3, :3] @ world[:3, :3].T / 0.85)
    assert np.degrees(turn.magnitude()) < 0.3


@pytest.mark.parametrize(
    ("contrast", "limit"),
    [
        (lambda v: v**0.5, 0.25),
        (lambda v: v**2, 0.25),
        (lambda v: np.where(v > 0.1, 1.5 - v, 0), 1.0),
        (lambda v: np.interp(v, [0, 0.1, 0.27, 0.65, 0.87], [0, 0.05, 1, 0.62, 0.42]), 0.4),
    ],
    ids=["brightened", "darkened", "reversed", "T2-like"],
)
def test_contrast_does_not_matter_much(template, contrast, limit):
    world = random_pose(8)
    scan = seen(world, 8, noise=0.01)
    changed = Volume(contrast(scan.data / 1000).astype(np.float32), scan.affine)
    found = register(changed, template, "affine")
    assert error(found, world, template) < limit and found.metric < CONVINCING


def test_a_strong_receive_field_does_not_pull(template):
    world = random_pose(9)
    scan = seen(world, 9)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in scan.data.shape), indexing="ij", sparse=True)
    field = 1 + 0.3 * y - 0.25 * z * z + 0.2 * x
    found = register(Volume((scan.data * field).astype(np.float32), scan.affine), template, "affine")
    assert error(found, world, template) < 0.4


@pytest.mark.parametrize(("kind", "size"), [("affine", 0.9), ("affine", 0.82), ("similarity", 0.86)])
def test_a_small_head_is_not_stretched_until_its_scalp_lies_on_the_brain(template, kind, size):
    world = random_pose(17, scale=0) @ np.diag([size, size, size, 1])
    assert median_error(template, world, 17, kind) < 0.25


@pytest.mark.parametrize("size", [1.0, 0.85])
def test_a_scalp_brighter_than_the_brain_and_4_mm_from_it_is_not_taken_for_its_border(template, size):
    world = random_pose(18, scale=0) @ np.diag([size, size, size, 1])
    clean = seen(world, 18, scalp=False, noise=0)
    away = 2 * ndimage.distance_transform_edt(clean.data < 20)
    scalp = np.where((away > 4) & (away <= 10), 1300, clean.data)
    noise = 30 * np.random.default_rng(0).standard_normal(scalp.shape)
    found = register(Volume(np.abs(scalp + noise).astype(np.float32), clean.affine), template, "affine")
    assert error(found, world, template) < 0.4 and found.metric < CONVINCING


# Far poses


def test_a_tilted_head_far_from_the_centre_is_found(template):
    world = random_pose(19, degrees=40, mm=50)
    assert median_error(template, world, 19, shape=WIDE) < 0.25


@pytest.mark.parametrize("turn", [(1, -1, -1), (-1, -1, 1)], ids=["upside down", "back to front"])
def test_a_head_whose_header_is_turned_around_is_found(template, turn):
    world = np.diag([*turn, 1.0]) @ random_pose(21)
    assert median_error(template, world, 21, "affine9", shape=WIDE) < 0.25


def test_a_header_that_reverses_one_axis_gives_the_mirror_image(template):
    scan, world = seen(random_pose(22), 22), random_pose(22)
    mirror = np.diag([1.0, 1, -1, 1])
    found = register(oriented(Volume(scan.data, mirror @ scan.affine)), template, "affine")
    assert error(found, mirror @ world @ np.diag([-1, 1, 1, 1]), template) < 0.25


def test_what_is_no_head_does_not_convince(template):
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal((70, 80, 70)), 3)
    x, y, z = np.indices(noise.shape) - np.array([35, 40, 35])[:, None, None, None]
    ball = x * x + y * y + z * z < 27**2
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = -105
    scan = Volume(np.where(ball, 3 + noise / noise.std(), 0).astype(np.float32), affine)
    assert register(scan, template, "affine").metric > CONVINCING


def test_a_constant_image_is_refused(template):
    with pytest.raises(ScanError, match="hardly any voxel differs"):
        register(Volume(np.ones((60, 60, 60), np.float32), np.diag([3.0, 3, 3, 1])), template, "affine")


# What is reported


def test_displacement_is_what_registration_adds_to_aligning_the_centres(template):
    shifted = seen(random_pose(8, degrees=0, mm=10, scale=0), 8, scalp=False)
    world = random_pose(9, degrees=12, mm=0, scale=0)
    assert register(shifted, template, "affine").displacement < 2
    expected = distance(world, np.eye(4), template.brain).mean()
    assert register(seen(world, 9, scalp=False), template, "affine").displacement == pytest.approx(expected, abs=2)


def test_without_registration_the_scan_stays_and_is_judged(template):
    found = register(seen(np.eye(4), 1), template, "none")
    np.testing.assert_array_equal(found.world, np.eye(4))
    assert found.displacement == 0 and found.metric < -0.9
    assert register(seen(random_pose(1, degrees=20, mm=20), 1), template, "none").metric > CONVINCING


def test_the_numbers_are_the_same_whatever_the_number_of_threads(template):
    scan = seen(random_pose(10), 10)
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            results.append(register(scan, template, "affine"))
    np.testing.assert_array_equal(results[0].world, results[1].world)
    assert results[0].metric == results[1].metric


def test_mutual_information_is_the_sum_of_entropies_less_the_joint_entropy():
    rng = np.random.default_rng(0)
    a = rng.random(4000)
    b = np.clip(a + 0.1 * rng.standard_normal(4000), 0, 1)

    def entropy(*variables):
        counts = np.unique(np.stack([np.floor(v * 7 + 0.5) for v in variables]), axis=1, return_counts=True)[1] / 4000
        return -(counts * np.log(counts)).sum()

    assert mutual_information(a, b, bins=8) == pytest.approx(entropy(a) + entropy(b) - entropy(a, b))
    assert mutual_information(a, rng.random(4000), bins=8) < 0.02


# Steps


def test_attitudes_are_rotations_with_none_farther_than_30_degrees_from_the_next():
    turns = attitudes(600)
    np.testing.assert_allclose(turns @ np.swapaxes(turns, 1, 2), np.broadcast_to(np.eye(3), turns.shape), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    others = Rotation.random(2000, random_state=0).as_matrix()
    traces = np.einsum("aij,bij->ab", turns, others)
    assert np.degrees(np.arccos((traces.max(0) - 1) / 2)).max() < 30


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 2**31))
def test_a_step_moves_the_points_as_its_directions_say_and_keeps_the_kind(kind, seed):
    rng = np.random.default_rng(seed)
    sizes = {"affine": rng.uniform(0.7, 1.3, 3), "affine9": rng.uniform(0.7, 1.3, 3), "similarity": np.full(3, 0.8)}
    centre, points = rng.normal(0, 20, (3, 1)), rng.normal(0, 50, (3, 100))
    world = about(centre, rotation(rng.uniform(-90, 90, 3)) @ np.diag(sizes[kind]))
    directions = gauss_newton._directions(kind, sizes[kind])
    assert directions.shape[1] == {"affine": 12, "affine9": 9, "similarity": 7}[kind]
    step = directions @ rng.normal(0, 0.01, directions.shape[1])
    moved = gauss_newton._moved(world, step, centre, kind)
    gone = points + step[:9].reshape(3, 3) / 50 @ (points - centre) + step[9:, None]
    np.testing.assert_allclose(moved[:3, :3] @ points + moved[:3, 3:], world[:3, :3] @ gone + world[:3, 3:], atol=1e-3)
    gram = moved[:3, :3].T @ moved[:3, :3]
    if kind != "affine":
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
    if kind == "similarity":
        np.testing.assert_allclose(gram, gram[0, 0] * np.eye(3), atol=1e-9)


def test_weighted_least_squares_agree_with_numpy():
    rng = np.random.default_rng(0)
    design, target, weights = (rng.standard_normal((5, 200)), rng.standard_normal(200), rng.random(200))
    expected = np.linalg.lstsq((design * np.sqrt(weights)).T, target * np.sqrt(weights), rcond=None)[0]
    np.testing.assert_allclose(gauss_newton._solved(design, target, weights), expected, atol=1e-5)


def test_the_jacobian_of_a_level_is_the_change_of_the_image_with_each_parameter(template):
    level = template.levels[1]
    low = level.points.min(1, keepdims=True) - level.spacing
    place = np.round((level.points - low) / level.spacing).astype(int)
    image, known = (np.zeros(place.max(1) + 2, np.float32), np.zeros(place.max(1) + 2, bool))
    image[tuple(place)], known[tuple(place)] = level.values, True
    surrounded = ndimage.binary_erosion(known)[tuple(place)]
    affine = np.diag([level.spacing, level.spacing, level.spacing, 1.0])
    affine[:3, 3:] = low
    points, centred = (level.points[:, surrounded], (level.points - level.centre)[:, surrounded])
    for parameter in range(12):
        step = 0.5 * (np.arange(12) == parameter)
        shift = step[:9].reshape(3, 3) / 50 @ centred + step[9:, None]
        above, below = (sample(Volume(image, affine), points + side)[0] for side in (shift, -shift))
        np.testing.assert_allclose(above - below, level.jacobian[parameter, surrounded], atol=1e-4)


def test_the_finest_level_lies_within_the_brain_and_the_others_reach_beyond_it(template):
    index = np.linalg.inv(template.affine)
    depth = ndimage.distance_transform_edt(template.mask, sampling=2.0)
    for level, inside in zip(template.levels, (True, False, False)):
        place = np.round(index[:3, :3] @ level.points + index[:3, 3:]).astype(int).clip(0, 79)
        assert (depth[tuple(place)] > 2).all() == inside
