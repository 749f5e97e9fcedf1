"""Contrastive and joint-embedding terms against their formulas in NumPy, and training by them without labels."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from training_jobs import (
    LABELS,
    RESNET,
    make_people,
    make_store,
    objective,
    pack_job,
    pretrain_job,
    roles,
    stage,
    trial_line,
)

from tlimb import registry
from tlimb.architectures.build import build_network
from tlimb.config import Stage, read_sweep
from tlimb.data.targets import Target
from tlimb.errors import InputError
from tlimb.files import read_json, write_json, write_parquet
from tlimb.objectives.barlow_twins import BarlowTwins, standardised
from tlimb.objectives.byol import BYOL, distance
from tlimb.objectives.objective import build_objective
from tlimb.objectives.simclr import SimCLR, nt_xent
from tlimb.objectives.term import Beginning, Step
from tlimb.objectives.vicreg import VICReg, off_diagonal, too_narrow
from tlimb.objectives.views import BRAIN, build_views
from tlimb.objectives.y_aware import YAware, likeness
from tlimb.parse import parse
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.pretrain import pretrain
from tlimb.scenarios.results import Settings
from tlimb.search.scans import terms_of
from tlimb.search.space import grid
from tlimb.search.terms import term_problems

PAGE = (Path(__file__).parents[2] / "docs" / "self-supervised.md").read_text(encoding="utf-8")
SHOWN = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
TERMS = {"SimCLR": {}, "VICReg": {}, "BarlowTwins": {}, "BYOL": {}, "YAware": {"column": "age", "sigma": 10.0}}
NOISE = [{"class_path": "RandomNoise", "init_args": {"probability": 1.0, "sd": [0.5, 0.5]}}]
PROJECTION = {"projection": {"class_path": "ProjectionHead", "init_args": {"width": 6, "batch_norm": False}}}
PREDICTION = {"prediction": {"class_path": "PredictionHead", "init_args": {"hidden": 8, "width": 6}}}
AGE = Target("age", "regression", (), 50.0, 10.0)
SITE = Target("site", "classification", ("a", "b", "c"))
CPU = Settings(torch.device("cpu"))


def started(term, columns=(), total_steps=10):
    """A term that has begun, and a batch of 5 images on a network in double precision."""
    network = build_network(RESNET, (1, 16, 18), {}, 0, heads=PROJECTION | PREDICTION).double()
    torch.manual_seed(0)
    term.start(Beginning(network, columns=tuple(columns), input_shape=(1, 16, 18), total_steps=total_steps))
    return term, Step(network, torch.randn(5, 1, 16, 18, dtype=torch.float64), [], labelled=5)


def embedded(term, step, head, together=False):
    """What the network makes of the two views that the term draws after seed 1, as arrays."""
    torch.manual_seed(1)
    views = [term.view(step.images), term.view(step.images)]
    with torch.no_grad():
        if together:
            made = step.network.passed(torch.cat(views)).outputs[head].chunk(2)
        else:
            made = [step.network.passed(view).outputs[head] for view in views]
    return [array.numpy() for array in made]


def value(term, step):
    torch.manual_seed(1)
    return float(term(step).detach())


def contrast_in_loops(first, second, temperature, alike):
    """The y-aware loss, view by view."""
    z = np.concatenate([first, second])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    count, total = len(z), 0.0
    for i in range(count):
        others = [k for k in range(count) if k != i]
        below = sum(np.exp(z[i] @ z[k] / temperature) for k in others)
        w = {k: alike[i % len(first), k % len(first)] for k in others}
        for k in others:
            total -= w[k] / sum(w.values()) * np.log(np.exp(z[i] @ z[k] / temperature) / below)
    return total / count


def test_simclr_is_the_papers_formula_over_both_views_in_one_pass():
    term, step = started(SimCLR(temperature=0.4, views=NOISE))
    first, second = embedded(term, step, "projection", together=True)
    assert value(term, step) == pytest.approx(contrast_in_loops(first, second, 0.4, np.eye(5)), rel=1e-9)


def test_y_aware_is_the_papers_formula_with_sigma_in_the_unit_of_the_column():
    term, step = started(YAware("age", sigma=7.0, temperature=0.3, views=NOISE), [AGE])
    ages = np.array([31.0, 35.0, 62.0, np.nan, 60.0])
    step.columns["age"] = torch.from_numpy((ages - AGE.mean) / AGE.sd)
    alike = np.nan_to_num(np.exp(-((ages[:, None] - ages) ** 2) / (2 * 7.0**2)))
    np.fill_diagonal(alike, 1.0)
    first, second = embedded(term, step, "projection", together=True)
    assert value(term, step) == pytest.approx(contrast_in_loops(first, second, 0.3, alike), rel=1e-7)


def test_y_aware_with_classes_pulls_within_a_class_and_with_a_narrow_kernel_is_simclr():
    columns = {"site": torch.tensor([0.0, 1.0, 0.0, torch.nan, torch.nan]), "age": torch.arange(5.0)}
    alike = np.eye(5)
    alike[0, 2] = alike[2, 0] = 1
    term, step = started(YAware("site", temperature=0.3, views=NOISE), [SITE])
    first, second = embedded(term, step, "projection", together=True)
    assert value(term, replace(step, columns=columns)) == pytest.approx(
        contrast_in_loops(first, second, 0.3, alike), rel=1e-7
    )
    narrow, step = started(YAware("age", sigma=0.01, temperature=0.3, views=NOISE), [AGE])
    plain, other = started(SimCLR(0.3, views=NOISE))
    assert value(narrow, replace(step, columns=columns)) == pytest.approx(value(plain, other), rel=1e-9)


def test_vicreg_is_the_sum_of_its_three_parts():
    term, step = started(VICReg(2.0, 3.0, 0.5, views=NOISE))
    first, second = embedded(term, step, "projection")
    expected = 2.0 * np.mean((first - second) ** 2)
    for z in (first, second):
        expected += 3.0 / 2 * np.maximum(0, 1 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4)).mean()
        covariance = np.cov(z.T)
        expected += 0.5 * (covariance**2)[~np.eye(6, dtype=bool)].sum() / 6
    assert value(term, step) == pytest.approx(expected, rel=1e-9)


def test_barlow_twins_is_the_papers_formula():
    term, step = started(BarlowTwins(redundancy=0.1, views=NOISE))
    first, second = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in embedded(term, step, "projection"))
    correlation = first.T @ second / 5
    own = np.eye(6, dtype=bool)
    expected = ((1 - correlation[own]) ** 2).sum() + 0.1 * (correlation[~own] ** 2).sum()
    assert value(term, step) == pytest.approx(expected, rel=1e-9)


def test_byol_is_the_squared_distance_of_unit_vectors_both_ways():
    term, step = started(BYOL(views=NOISE))
    step.network.eval()
    with torch.no_grad():
        step.network.head("prediction").projection[0].weight.mul_(-0.5)
    predicted = embedded(term, step, "prediction")
    projected = embedded(term, replace(step, network=term.target.eval()), "projection")
    p, z = ([row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows] for rows in (predicted, projected))
    expected = ((p[0] - z[1]) ** 2).sum(1).mean() + ((p[1] - z[0]) ** 2).sum(1).mean()
    assert value(term, step) == pytest.approx(expected, rel=1e-9)


def test_gradients_are_those_of_the_values():
    torch.manual_seed(0)
    first, second = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ages = torch.tensor([0.0, 0.2, 1.0, torch.nan], dtype=torch.float64)
    for function in (
        lambda a, b: nt_xent(a, b, 0.5),
        lambda a, b: nt_xent(a, b, 0.5, likeness(ages, 0.5)),
        lambda a, b: too_narrow(a * 0.3) + off_diagonal(b),
        lambda a, b: (standardised(a).T @ standardised(b)).square().sum(),
        distance,
    ):
        assert torch.autograd.gradcheck(function, (first, second))


def test_views_that_are_all_alike_give_the_known_values():
    same = torch.ones(4, 3, dtype=torch.float64)
    assert float(nt_xent(same, same, 0.1)) == pytest.approx(np.log(7))
    assert float(too_narrow(same)) == pytest.approx(1 - 0.01) and float(off_diagonal(same)) == 0
    assert not standardised(same).any()
    assert float(distance(same, same)) == pytest.approx(0, abs=1e-12)
    assert float(distance(same, -same)) == pytest.approx(4)
    apart = torch.eye(4, dtype=torch.float64)
    assert float(nt_xent(apart, apart, 0.05)) == pytest.approx(np.log(1 + 6 * np.exp(-20)), rel=1e-6)


def test_the_target_of_byol_moves_as_the_paper_says_and_is_not_optimised():
    term, step = started(BYOL(momentum=0.9, views=NOISE), total_steps=4)
    assert not any(weight.requires_grad for weight in term.parameters())
    head = step.network.head("prediction")
    weight = head.projection[0].weight
    expected = weight.detach().numpy().copy()
    term(step).backward()
    assert weight.grad.any() and step.network.encoder.conv1.weight.grad.any()
    for k in range(4):
        with torch.no_grad():
            weight += 1.0
        term.after_step(step.network)
        tau = 1 - (1 - 0.9) * (np.cos(np.pi * k / 4) + 1) / 2
        expected = tau * expected + (1 - tau) * weight.detach().numpy()
    found = term.state_dict()
    np.testing.assert_allclose(found["target.heads.0.0.weight"], expected, rtol=1e-6)
    assert int(found["steps"]) == 4 and any(name.startswith("target.encoder.") for name in found)


def test_the_target_of_byol_is_in_the_mode_of_the_network_and_shares_nothing_with_it():
    term, step = started(BYOL(views=NOISE))
    moving = term.target.heads[0][1].running_mean
    before, own = moving.clone(), step.network.head("prediction").projection[1].running_mean
    value(term, step)
    assert not torch.equal(moving, before)
    before, shown, step.training = moving.clone(), own.clone(), False
    step.network.eval()
    assert value(term, step) == value(term, step)
    assert torch.equal(moving, before) and torch.equal(own, shown)
    addresses = {weight.data_ptr() for weight in step.network.parameters()}
    assert not addresses & {weight.data_ptr() for weight in term.target.parameters()}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_usual_views_differ_follow_from_the_seed_and_leave_the_images(dims):
    view, images = build_views(None, dims), torch.randn(6, 1, *[16] * dims)
    kept = images.clone()
    torch.manual_seed(3)
    first, second = view(images), view(images)
    torch.manual_seed(3)
    assert torch.equal(view(images), first) and not torch.equal(first, second)
    assert first.shape == images.shape and torch.equal(images, kept)


def test_an_empty_list_of_views_is_the_image_itself():
    images = torch.randn(2, 1, 8, 8)
    assert build_views([], 2)(images) is images


def test_all_that_is_wrong_with_views_is_said_at_once():
    views = [
        {"class_path": "RandomFlp"},
        {"class_path": "RandomNoise", "init_args": {"sdd": 1.0}},
        {"class_path": "RandomCutout", "init_args": {"size": 2.0}},
        {"class_path": "MixUp"},
        {"class_path": "RandomAffine", "init_args": {}},
        {"init_args": {}},
        {"class_path": "my_lab.Own"},
    ]
    with pytest.raises(InputError) as raised:
        build_views(views, 1)
    found = [problem.where.partition(".")[0] for problem in raised.value.problems]
    assert found == ["views[0]", "views[1]", "augment RandomCutout: size", "views[3]", "augment RandomAffine"] + [
        "views[5]",
        "views[6]",
    ]
    assert "RandomFlip" in str(raised.value) and "expected slices" in str(raised.value)


def test_arguments_out_of_range_are_refused():
    for make in (
        lambda: SimCLR(temperature=0.0),
        lambda: SimCLR(temperature=float("nan")),
        lambda: VICReg(variance=-1.0),
        lambda: BarlowTwins(redundancy=float("inf")),
        lambda: BYOL(momentum=1.5),
        lambda: YAware("age", sigma=0.0),
    ):
        with pytest.raises(InputError, match="expected a number"):
            make()


@pytest.mark.parametrize("term", [SimCLR, VICReg, BarlowTwins, BYOL])
def test_a_batch_of_one_scan_is_refused_and_one_of_two_is_not(term):
    term, step = started(term(views=NOISE))
    assert np.isfinite(value(term, replace(step, images=step.images[:2])))
    with pytest.raises(InputError, match="nothing to compare"):
        term(replace(step, images=step.images[:1]))


def test_byol_refuses_a_head_that_projects_nothing():
    heads = {"prediction": PROJECTION["projection"]}
    network = build_network(RESNET, (1, 16, 18), {}, 0, heads=heads)
    with pytest.raises(InputError, match="ProjectionHead has no projection"):
        BYOL().start(Beginning(network, input_shape=(1, 16, 18)))


def test_y_aware_refuses_columns_of_several_classes_and_batches_without_the_column():
    with pytest.raises(InputError, match="is multilabel"):
        started(YAware("age"), [Target("age", "multilabel", ("x", "y"))])
    term, step = started(YAware("age", views=NOISE), [AGE])
    with pytest.raises(InputError, match="without the column 'age'"):
        term(step)
    step.training = False
    plain, other = started(SimCLR(views=NOISE))
    assert value(term, step) == value(plain, other)


OWN_PASS = {
    **{name: arguments | {"views": NOISE} for name, arguments in TERMS.items()},
    **{"RotationPrediction": {}, "TransformPrediction": {}, "Reconstruction": {"masked": 0.5}},
    **{"FixMatch": {}, "MeanTeacher": {}, "TransformConsistency": {}},
}


def beside_a_target(*terms: dict):
    """An objective of one target and these terms, and a step of 3 labelled and 3 unlabelled scans."""
    set_up_torch(1, training=True)
    made = build_objective(objective({"auxiliary": terms}), [SITE])
    network = build_network(RESNET, (1, 16, 18), {"site": 3}, 0, heads=made.heads()).train()
    beginning = Beginning(network, targets=(SITE,), columns=(AGE,), input_shape=(1, 16, 18), total_steps=10)
    made.start(beginning, 0)
    images, columns = torch.randn(6, 1, 16, 18, generator=torch.Generator().manual_seed(1)), {"age": torch.arange(6.0)}
    step = Step(network, images, [torch.arange(3.0)], columns, labelled=3, progress=1.0, names=made.passed_heads())
    return made, step


@pytest.mark.parametrize("name", OWN_PASS)
def test_beside_targets_running_statistics_are_those_of_the_supervised_pass_alone(name):
    weighted = {"class_path": name, "init_args": OWN_PASS[name], "weight": 1.0}
    (made, step), (plain, other) = beside_a_target(weighted), beside_a_target()
    untouched = {key: of.clone() for key, of in step.network.named_buffers()}
    assert made(step)[name.lower()].isfinite() and plain(other)
    found, wanted = dict(step.network.named_buffers()), dict(other.network.encoder.named_buffers())
    assert all(torch.equal(of, found[f"encoder.{key}"]) for key, of in wanted.items())
    assert all(torch.equal(of, untouched[key]) for key, of in found.items() if not key.startswith("encoder."))
    assert not torch.equal(found["encoder.bn1.running_mean"], untouched["encoder.bn1.running_mean"])


@pytest.mark.parametrize("name", [*TERMS, "RotationPrediction", "TransformPrediction", "Reconstruction", "L1Code"])
def test_beside_an_encoder_that_never_trains_terms_of_images_are_refused(name):
    term = {"class_path": name, "init_args": TERMS.get(name, {})}
    said = {"name": "finetune", "targets": ["sex"], "epochs": 2, "data": {"labelled": {"cohort": "clinic"}}}
    for strategy, told in (("frozen", ["objective.auxiliary[0]"]), ("full", [])):
        made = parse(Stage, said | {"strategy": strategy, "objective": {"auxiliary": [term]}})
        assert [problem.where.partition(".")[2] for problem in term_problems(made, 1, True, None)] == told


def test_only_heads_that_are_looked_at_take_part_in_the_pass_of_a_step():
    def passed(spec, targets=()):
        return build_objective(objective(spec), targets).passed_heads()

    views, drawn = {"class_path": "SimCLR"}, {"class_path": "Reconstruction"}
    hidden = drawn | {"init_args": {"masked": 0.5}}
    assert passed({"auxiliary": [views, hidden, {"class_path": "BYOL"}]}, [SITE]) == ("site",)
    assert passed({"auxiliary": [drawn, {"class_path": "L1Code"}]}, [SITE]) == ("site", "reconstruction", "code")
    assert passed({"primary": hidden | {"class_path": "Reconstruction"}}) == ("reconstruction",)
    assert passed({"primary": views | {"init_args": {}}}) == ("projection",)


def test_two_terms_do_not_share_a_head_that_they_want_otherwise():
    aware = {"class_path": "YAware", "init_args": {"column": "age"}}
    terms = [{"class_path": "SimCLR"}, {"class_path": "VICReg"}, aware]
    made = build_objective(objective({"auxiliary": terms}), [SITE])
    with pytest.raises(InputError, match="heads.projection: SimCLR and VICReg ask for different ones"):
        made.heads({})
    assert made.heads({"projection": PROJECTION["projection"]})
    alike = build_objective(objective({"auxiliary": [terms[0], aware]}), [SITE])
    assert list(alike.heads({})) == ["projection"]


def test_the_page_shows_a_sweep_and_stages_that_are_right_and_the_usual_views():
    sweep, space = SHOWN[:2]
    assert len(grid(read_sweep(sweep | {"input": "cohorts.csv", "search": {"space": space}}), ())) == 4 * 2 + 1
    own = [said for said in SHOWN if any(f'"{name}"' in json.dumps(said) for name in TERMS)]
    stages = [parse(Stage, said) for said in own if isinstance(said, dict) and "name" in said]
    assert len(stages) == 3
    for said in stages:
        assert not term_problems(said, 0, False, None)
        for path, term in terms_of(said.objective.model_dump()):
            assert not registry.check("objective", term["class_path"], term["init_args"], path)
    assert list(BRAIN) in SHOWN


def spread_after(term, steps=40):
    """The mean standard deviation of the unit vectors of features, times sqrt(F): 1 where they fill the sphere."""
    torch.manual_seed(0)
    network = build_network(RESNET, (1, 16, 18), {}, 0, heads=PROJECTION)
    term.start(Beginning(network, input_shape=(1, 16, 18)))
    people = make_people("any", 16)
    ages = torch.from_numpy(((people["age"] - 50) / 20).to_numpy("float32"))
    images = torch.randn(16, 1, 16, 18)
    images[:, :, 4:-4, 4:-4] += ages[:, None, None, None]
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        term(Step(network, images, [], labelled=16)).backward()
        optimizer.step()
    with torch.no_grad():
        projected = network(images)["projection"]
    return float(projected.std(0).mean()), float(torch.nn.functional.normalize(projected).std(0).mean() * 6**0.5)


def test_features_do_not_collapse_unless_nothing_keeps_them_apart():
    assert spread_after(SimCLR(views=NOISE))[1] > 0.5
    assert spread_after(VICReg(views=NOISE))[0] > 0.5
    assert spread_after(VICReg(variance=0.0, covariance=0.0, views=NOISE))[0] < 0.1


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contrastive")
    set_up_torch(1, training=True)
    lifespan, clinic = make_people("lifespan", 24), make_people("clinic", 16, seed=1)
    make_store(folder / "store", pd.concat([lifespan, clinic], ignore_index=True))
    return folder / "store", lifespan, clinic


def pretrained(store, folder, name, init_args):
    """The encoder folder of a stage without targets whose primary term is this one."""
    heads = PREDICTION if name == "BYOL" else PROJECTION
    primary = {"class_path": name, "init_args": init_args}
    without = stage("pretrain", "age", objective={"primary": primary}, heads=heads, weights=None) | {"targets": []}
    without["data"] |= {"labelled": None, "unlabelled": {"cohort": ["lifespan"]}}
    people = roles(store[1], 4, 4)
    pretrain_job(folder / name, people, without)
    if name == "YAware":
        job = read_json(folder / name / "job.json")
        write_json(folder / name / "job.json", job | {"columns": {"age": LABELS["age"]}})
        columns = ["split", "scan_id", "person", "role", "times", "age"]
        write_parquet(folder / name / "table.parquet", people[columns].assign(age=people["age"].mask(people.index < 3)))
    return pretrain(folder / name, store[0], None, folder / "encoders", CPU)


def test_each_pretrains_an_encoder_without_labels_and_a_fine_tuning_starts_from_it(store, tmp_path):
    facts, histories = [], {}
    for name, init_args in TERMS.items():
        folder = pretrained(store, tmp_path, name, init_args)
        facts.append(read_json(folder / "encoder.json"))
        assert facts[-1]["status"] == "ok", facts[-1].get("reason")
        histories[name] = pd.read_csv(folder / "history.csv")
        assert np.isfinite(histories[name][["train_loss", "validation_loss"]].to_numpy()).all()
    assert (histories["BYOL"][["train_loss", "validation_loss"]].to_numpy() <= 8).all()
    plain = stage("finetune", "diagnosis", epochs=1)
    beside = {"auxiliary": [{"class_path": "SimCLR", "init_args": {"temperature": 0.5}, "weight": 0.1}]}
    aided = stage("finetune", "diagnosis", epochs=1, objective=beside, heads=PROJECTION)
    trials = [trial_line(plain, init=one["id"]) for one in facts] + [trial_line(aided, init=facts[0]["id"])]
    pack_job(tmp_path / "pack", roles(store[2], 4, 4), trials)
    finetune(tmp_path / "pack", store[0], tmp_path / "encoders", tmp_path / "models", CPU)
    models = [read_json(tmp_path / "models" / trial["id"] / "model.json") for trial in trials]
    assert [model["status"] for model in models] == ["ok"] * 6, [model.get("reason") for model in models]
    assert [list(model["targets"]) for model in models] == [["diagnosis"]] * 6
    history = pd.read_csv(tmp_path / "models" / trials[-1]["id"] / "history.csv")
    assert 0 < history["train_simclr"][0] < 0.1 * np.log(2 * 8 - 1) * 3
