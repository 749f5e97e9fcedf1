"""Terms that remove a site, scanner, age or sex from what a network learns, against their formulas in NumPy."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from plain_encoder import Plain
from scipy.spatial.distance import pdist, squareform
from scipy.special import softmax
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import nn
from training_jobs import make_people, make_store, pack_job, roles, stage, trial_line

from tlimb.architectures.network import Network
from tlimb.data.augment.mixup import Mixed
from tlimb.data.bins import Bins
from tlimb.data.targets import Target
from tlimb.errors import InputError
from tlimb.files import read_json, write_json, write_parquet
from tlimb.objectives.adversarial_removal import AdversarialRemoval
from tlimb.objectives.correlation_penalty import (
    CorrelationPenalty,
    distance_correlation,
    predicted,
    squared_correlations,
)
from tlimb.objectives.term import Beginning, Step
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings

GROUP = Target("group", "classification", ("control", "patient"))
SCORE = Target("score", "regression", (), 0.0, 1.0)
SITE = Target("site", "classification", ("a", "b", "c"))
AGE = Target("age", "regression", (), 50.0, 10.0)
TIME = Target("time", "survival")
SMALL = {"width": 8, "depth": 1}


def network() -> Network:
    torch.manual_seed(0)
    return Network(Plain(), {"group": nn.Linear(3, 2), "score": nn.Linear(3, 1)})


def started(term, of: Network, targets=(GROUP, SCORE), columns=(SITE, AGE)):
    torch.manual_seed(1)
    term.start(Beginning(of, targets=tuple(targets), columns=tuple(columns)))
    return term


def step(of: Network, labelled: int = 9, unlabelled: int = 5, **changes) -> Step:
    """A batch; the site of scan 2 and the age of scan 3 are missing, and the group of scan 4."""
    random, size = np.random.default_rng(0), labelled + unlabelled
    images = torch.tensor(random.normal(size=(size, 4)), dtype=torch.float32)
    columns = {"site": torch.arange(size) % 3.0, "age": torch.tensor(random.normal(size=size), dtype=torch.float32)}
    columns["site"][2] = columns["age"][3] = torch.nan
    group = torch.arange(labelled) % 2.0
    group[4] = torch.nan
    facts = {"labels": [group, torch.zeros(labelled)], "columns": columns, "labelled": labelled, "progress": 1.0}
    return Step(of, images, **(facts | {"whole": True} | changes))


def features(of: Step) -> np.ndarray:
    return of.passed.features.detach().numpy().astype("float64")


def column(of: Step, name: str) -> np.ndarray:
    return of.columns[name].numpy().astype("float64")


def layers(stack: nn.Sequential, x: np.ndarray) -> np.ndarray:
    linear = [layer for layer in stack if isinstance(layer, nn.Linear)]
    for place, layer in enumerate(linear):
        x = x @ layer.weight.detach().numpy().T.astype("float64") + layer.bias.detach().numpy()
        x = np.maximum(x, 0) if place < len(linear) - 1 else x
    return x


def correlation_ratio(z: np.ndarray, c: np.ndarray) -> float:
    between = sum((c == k).sum() * (z[c == k].mean() - z.mean()) ** 2 for k in np.unique(c))
    return between / ((z - z.mean()) ** 2).sum()


def bias_corrected(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased squared distance covariance of two matrices of distances, by its sums."""
    n = len(a)
    sums = (a * b).sum() - 2 / (n - 2) * (a.sum(0) * b.sum(0)).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2))
    return sums / (n * (n - 3))


def expected_distance(z: np.ndarray, b: np.ndarray) -> float:
    a = squareform(pdist(z))
    return bias_corrected(a, b) / np.sqrt(bias_corrected(a, a) * bias_corrected(b, b))


def test_the_adversary_of_a_class_minimises_the_cross_entropy_of_all_scans_that_have_it():
    of = network()
    term, seen = started(AdversarialRemoval("site", **SMALL), of), step(of)
    shares, site = softmax(layers(term.adversary, features(seen)), axis=1), column(seen, "site")
    known = ~np.isnan(site)
    assert known.sum() == 13
    expected = -np.log(shares[known, site[known].astype(int)]).mean()
    assert float(term(seen).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_adversary_of_a_quantity_minimises_the_squared_error_of_the_standardised_one():
    of = network()
    term, seen = started(AdversarialRemoval("age", **SMALL), of), step(of)
    expected = np.nanmean((layers(term.adversary, features(seen))[:, 0] - column(seen, "age")) ** 2)
    assert float(term(seen).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_adversary_may_be_measured_by_correlation():
    of = network()
    term, seen = started(AdversarialRemoval("age", loss="correlation", **SMALL), of), step(of)
    known = ~np.isnan(column(seen, "age"))
    r = np.corrcoef(layers(term.adversary, features(seen))[known, 0], column(seen, "age")[known])[0, 1]
    assert float(term(seen).detach()) == pytest.approx(1 - r**2, rel=1e-5)


def test_the_adversary_learns_the_column_and_the_encoder_the_opposite_by_lambda():
    of, gradients = network(), {}
    term = started(AdversarialRemoval("age", **SMALL), of)
    for name, progress in (("half", 0.2), ("end", 1.0)):
        of.zero_grad(), term.zero_grad()
        term(step(of, progress=progress)).backward()
        own = [parameter.grad.clone() for parameter in term.parameters()]
        gradients[name] = of.encoder.layer.weight.grad.clone(), own
    shares = (2 / (1 + np.exp(-2.0)) - 1) / (2 / (1 + np.exp(-10.0)) - 1)
    assert torch.allclose(gradients["half"][0], shares * gradients["end"][0], rtol=1e-4, atol=1e-8)
    assert all(torch.equal(one, other) for one, other in zip(gradients["half"][1], gradients["end"][1]))
    seen = step(of)
    before = float(term(seen).detach())
    with torch.no_grad():
        of.encoder.layer.weight -= 0.1 * gradients["end"][0]
    assert float(term(step(of)).detach()) > before


@pytest.mark.parametrize("name", ["site", "age"])
def test_the_squared_correlation_of_predictions_is_that_of_their_formula(name):
    of = network()
    seen, term = step(of), started(CorrelationPenalty(name), of)
    z = {key: output.detach().numpy().astype("float64") for key, output in seen.passed.outputs.items()}
    z = np.hstack([softmax(z["group"], axis=1), z["score"]])
    c = column(seen, name)
    z, c = z[~np.isnan(c)], c[~np.isnan(c)]
    of_one = correlation_ratio if name == "site" else (lambda one, c: np.corrcoef(one, c)[0, 1] ** 2)
    expected = np.mean([of_one(one, c) for one in z.T])
    assert float(term(seen).detach()) == pytest.approx(expected, rel=1e-4)


def test_of_two_classes_the_correlation_ratio_is_the_squared_correlation():
    random = np.random.default_rng(0)
    z, c = torch.tensor(random.normal(size=(30, 4))), torch.tensor(random.integers(0, 2, 30).astype(float))
    assert torch.allclose(squared_correlations(z, c, 2), squared_correlations(z, c), rtol=1e-10)


@pytest.mark.parametrize("name", ["site", "age"])
def test_the_distance_correlation_of_features_is_that_of_its_formula(name):
    of = network()
    seen, term = step(of), started(CorrelationPenalty(name, kind="distance", of="features"), of)
    c = column(seen, name)
    z, c = features(seen)[~np.isnan(c)], c[~np.isnan(c)]
    apart = c[:, None] != c[None] if name == "site" else np.abs(c[:, None] - c[None])
    assert float(term(seen).detach()) == pytest.approx(expected_distance(z, apart.astype(float)), rel=1e-4)


def test_distance_correlation_is_1_of_a_line_0_on_average_of_nothing_and_sees_a_circle():
    random = np.random.default_rng(0)
    c = torch.tensor(random.normal(size=60))
    assert float(distance_correlation(torch.stack([3 * c, -4 * c], 1), c)) == pytest.approx(1)
    none = [float(distance_correlation(torch.tensor(random.normal(size=(20, 3))), c[:20])) for _ in range(200)]
    assert min(none) < 0 and abs(np.mean(none)) < 3 * np.std(none) / np.sqrt(200)
    assert float(squared_correlations(c.square()[:, None], c)) < 0.05
    assert float(distance_correlation(c.square()[:, None], c)) > 0.15


def test_gradients_of_both_penalties_are_those_of_their_values():
    random = np.random.default_rng(0)
    z = torch.tensor(random.normal(size=(7, 2)), requires_grad=True)
    c, classes = torch.tensor(random.normal(size=7)), torch.tensor([0.0, 1, 2, 0, 1, 2, 0])
    for values, count in ((c, 0), (classes, 3)):
        assert torch.autograd.gradcheck(lambda x: squared_correlations(x, values, count), z)
        assert torch.autograd.gradcheck(lambda x: distance_correlation(x, values, count), z)


def test_what_does_not_vary_has_no_correlation_and_no_gradient():
    z = torch.full((8, 2), 0.3, requires_grad=True)
    c = torch.randn(8, generator=torch.Generator().manual_seed(0))
    for value in (squared_correlations(z, c), distance_correlation(z, c), squared_correlations(z, c * 0)):
        value.sum().backward()
        assert not value.any()
    assert not z.grad.any()
    assert squared_correlations(torch.randn(8, 2), torch.ones(8), 3).max() < 1e-10


TERMS = {
    "adversarial": lambda within: AdversarialRemoval("age", within=within, **SMALL),
    "by correlation": lambda within: AdversarialRemoval("age", "correlation", within, **SMALL),
    "squared": lambda within: CorrelationPenalty("age", within=within),
    "distance": lambda within: CorrelationPenalty("age", "distance", "features", within),
}


@pytest.mark.parametrize("name", TERMS)
def test_within_a_class_only_its_labelled_scans_count(name):
    of = network()
    controls = [0, 2, 6, 8, 10]  # of eleven labelled scans: even ones but 4, whose group is missing
    whole = step(of, labelled=11, unlabelled=3)
    alone = Step(
        of, whole.images[controls], [torch.zeros(5), torch.zeros(5)], {"age": whole.columns["age"][controls]},
        labelled=5, progress=1.0,
    )  # fmt: skip
    value = started(TERMS[name]({"group": "control"}), of)(whole)
    assert float(value.detach()) == pytest.approx(float(started(TERMS[name](None), of)(alone).detach()), rel=1e-4)
    value.backward()
    others = [i for i in range(14) if i not in controls]
    images = whole.images.clone()
    images[others] += 1
    moved = Step(of, images, whole.labels, whole.columns, labelled=11, progress=1.0, whole=True)
    again = started(TERMS[name]({"group": "control"}), of)(moved)
    assert float(again.detach()) == pytest.approx(float(value.detach()), rel=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_a_batch_in_which_nobody_has_the_column_costs_nothing(name):
    of = network()
    term = started(TERMS[name](None), of)
    value = term(step(of, columns={"age": torch.full((14,), torch.nan)}))
    value.backward()
    assert float(value.detach()) == 0
    assert not of.encoder.layer.weight.grad.any()
    assert all(parameter.grad is None for parameter in term.parameters())


@pytest.mark.parametrize("name", TERMS)
def test_without_a_second_set_the_labelled_scans_count_alone(name):
    of = network()
    whole = step(of)
    labelled = Step(of, whole.images, whole.labels, whole.columns, labelled=9, progress=1.0, whole=False)
    first = {"age": whole.columns["age"][:9]}
    alone = Step(of, whole.images[:9], whole.labels, first, labelled=9, progress=1.0)
    term = started(TERMS[name](None), of)
    assert float(term(labelled).detach()) == pytest.approx(float(term(alone).detach()), rel=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_features_of_half_precision_are_computed_in_full(name):
    of = network()
    term, seen = started(TERMS[name](None), of), step(of)
    half = seen.passed.features.detach().bfloat16()
    values = []
    for shown in (half, half.float()):
        outputs = {key: output.to(shown.dtype) for key, output in of.predict(half.float()).items()}
        given = step(of, featured=True)
        given.__dict__["passed"] = type(seen.passed)(shown, outputs)
        values.append(term(given).detach())
    assert values[0].dtype == torch.float32
    assert float(values[0]) == pytest.approx(float(values[1]), rel=0.02)


@pytest.mark.parametrize("name", TERMS)
def test_mixed_images_are_refused(name):
    of = network()
    labels = [torch.zeros(14), torch.zeros(14)]
    mixed = step(of, labels=Mixed(labels, labels, torch.ones(14)), columns={}, labelled=14)
    with pytest.raises(InputError, match="needs 'age' of each image, and mixed images have two at once"):
        started(TERMS[name](None), of)(mixed)


@pytest.mark.parametrize("term", [AdversarialRemoval, CorrelationPenalty])
def test_columns_that_do_not_fit_are_refused(term):
    cases = {"sight": "did you mean 'site'", "group": "is a target of the stage", "time": "is survival"}
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            started(term(name), network(), columns=[SITE, AGE, TIME])
    with pytest.raises(InputError, match="no target 'grupp'") as error:
        started(term("age", within={"grupp": "control", "group": "kontrol", "score": "high"}), network())
    assert len(error.value.problems) == 3 and "did you mean 'control'?" in str(error.value)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="expected a quantity for the loss \"correlation\""):
        started(AdversarialRemoval("site", loss="correlation"), network())
    with pytest.raises(InputError, match="width: expected at least 1"):
        AdversarialRemoval("site", width=0)
    with pytest.raises(InputError, match="the stage has no targets"):
        started(CorrelationPenalty("site"), network(), targets=[])


def test_predictions_are_what_heads_predict():
    outputs = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]])
    binned = Target("age", "regression", mean=50.0, sd=10.0, bins=Bins(20.0, 80.0, 20.0, 5.0))
    shares = softmax(outputs.numpy(), axis=1)
    assert predicted(binned, outputs).numpy() == pytest.approx((shares @ [-2.0, 0.0, 2.0])[:, None], rel=1e-5)
    assert predicted(SITE, outputs).numpy() == pytest.approx(shares, rel=1e-5)
    grade = Target("grade", "ordinal", ("none", "mild", "severe", "worst"))
    assert torch.equal(predicted(grade, outputs), outputs.sigmoid())
    assert torch.equal(predicted(SCORE, outputs[:, :1]), outputs[:, :1])


def confounded() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (128, 4), a class that depends on their first axis, and a site and an age that stand in the second and
    third one and go with the class: of 70 % of the people it tells the site, of the age's variance a fifth."""
    random = np.random.default_rng(0)
    label = np.arange(128) % 2
    site, age = (label + (random.random(128) < 0.3)) % 2, label + random.normal(size=128)
    images = random.normal(size=(128, 4))
    images[:, 0] += 2 * label
    images[:, 1] += 3 * site
    images[:, 2] += 1.5 * age
    age = (age - age.mean()) / age.std()
    return tuple(torch.tensor(x, dtype=torch.float32) for x in (images, label, site, age))


def trained(term, weight: float, measure) -> float:
    """A measure's mean over the last third of the steps in which a network learned the class beside a term."""
    of, values = network(), []
    term = started(term, of, columns=[Target("site", "classification", ("a", "b")), AGE])
    images, label, site, age = confounded()
    optimiser = torch.optim.Adam([*of.parameters(), *term.parameters()], lr=0.02, betas=(0.5, 0.99))
    for number in range(120):
        optimiser.zero_grad()
        seen = Step(of, images, [label, label], {"site": site, "age": age}, 128, number / 119)
        (nn.functional.cross_entropy(seen.outputs["group"], label.long()) + weight * term(seen)).backward()
        optimiser.step()
        values += [measure(of, images, site, age)] if number >= 80 and number % 8 == 0 else []
    assert float((of(images)["group"].argmax(1) == label).float().mean()) > 0.7
    return np.mean(values)


@torch.no_grad()
def site_told(of: Network, images, site, age) -> float:
    """The share of sites that a linear model recognises by the features."""
    z = of.encode(images).numpy()
    return LogisticRegression().fit(z, site.numpy()).score(z, site.numpy())


@torch.no_grad()
def age_told(of: Network, images, site, age) -> float:
    """The share of the age's variance that a linear model explains by the features."""
    z = of.encode(images).numpy()
    return LinearRegression().fit(z, age.numpy()).score(z, age.numpy())


@torch.no_grad()
def site_in_predictions(of: Network, images, site, age) -> float:
    """The squared correlation of the probability of a class with the site."""
    return np.corrcoef(of(images)["group"].softmax(1)[:, 1].numpy(), site.numpy())[0, 1] ** 2


@cache
def unchanged(measure) -> float:
    """The measure where nothing is removed."""
    return trained(CorrelationPenalty("age"), 0.0, measure)


@pytest.mark.parametrize(
    "term, weight, measure, most",
    [
        (AdversarialRemoval("site", width=16, depth=1), 1.0, site_told, 0.75),
        (AdversarialRemoval("age", width=16, depth=1), 0.5, age_told, 0.3),
        (AdversarialRemoval("age", "correlation", width=16, depth=1), 1.0, age_told, 0.3),
        (CorrelationPenalty("site"), 3.0, site_in_predictions, 0.05),
        (CorrelationPenalty("age", "distance", "features"), 3.0, age_told, 0.3),
    ],
    ids=["site", "age", "age by correlation", "site in predictions", "age by distance"],
)
def test_a_column_is_removed_and_the_class_is_still_learned(term, weight, measure, most):
    before, after = unchanged(measure), trained(term, weight, measure)
    assert before > 1.1 * most and after < most


def test_a_stage_is_trained_with_columns_that_some_scans_lack(tmp_path):
    set_up_torch(1, training=True)
    people = make_people("clinic", 26)
    make_store(tmp_path / "store", people)
    people["site"] = np.where(np.arange(26) % 3 == 0, "a", "b")
    people.loc[[1, 20], "site"] = people.loc[[2, 21], "age"] = np.nan
    table = pd.concat([roles(people[:20], 5, 4), people[20:].assign(role="unlabelled")], ignore_index=True)
    table = table.assign(split=table["split"].iloc[0], times=1)
    terms = [
        {"class_path": "AdversarialRemoval", "init_args": {"column": "site", "width": 16}},
        {"class_path": "CorrelationPenalty", "init_args": {"column": "age", "within": {"diagnosis": "control"}}},
    ]
    spec = stage("train", "diagnosis", objective={"auxiliary": terms}, strategy="scratch")
    spec["data"] |= {"unlabelled": {"cohort": ["clinic"], "modality": None, "where": {}, "n": None}}
    trial = trial_line(spec)
    pack_job(tmp_path / "job", table, [trial])
    job = read_json(tmp_path / "job" / "job.json")
    columns = {"site": {"kind": "classification", "classes": ["a", "b"]}, "age": {"kind": "regression", "classes": []}}
    write_json(tmp_path / "job" / "job.json", job | {"columns": columns})
    hidden = table["diagnosis"].mask(table["role"] == "unlabelled")
    write_parquet(tmp_path / "job" / "table.parquet", table.assign(diagnosis=hidden))
    finetune(tmp_path / "job", tmp_path / "store", tmp_path, tmp_path / "out", Settings(torch.device("cpu")))
    model = read_json(tmp_path / "out" / trial["id"] / "model.json")
    assert model["status"] == "ok", model["reason"]
    history = pd.read_csv(tmp_path / "out" / trial["id"] / "history.csv")
    assert (history["train_adversarialremoval"] > 0).all() and (history["train_correlationpenalty"] > 0).all()
