"""Terms that adapt a network to a second domain, against their formulas in NumPy."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from plain_encoder import Plain
from safetensors.torch import load_file
from scipy.spatial.distance import cdist
from torch import nn
from training_jobs import SPLIT, make_people, make_store, pack_job, roles, stage, trial_line
from training_jobs import objective as written

from tlimb.architectures.network import Network
from tlimb.config import Ramp
from tlimb.data.targets import Target
from tlimb.errors import InputError
from tlimb.files import read_json, write_parquet
from tlimb.objectives.cdan import CDAN, Multilinear
from tlimb.objectives.dann import DANN
from tlimb.objectives.deep_coral import DeepCORAL
from tlimb.objectives.mdd import MDD, log_of_others
from tlimb.objectives.mmd import MMD
from tlimb.objectives.objective import build_objective
from tlimb.objectives.reversal import reversed_gradient, strength_at
from tlimb.objectives.term import Beginning, Step
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings

SEX = Target("sex", "classification", ("f", "m", "x"))
AGE = Target("age", "regression", (), 50.0, 10.0)
SMALL = {"width": 8, "depth": 1}
TERMS = [DANN(**SMALL), CDAN(**SMALL), MMD(), DeepCORAL(), MDD(**SMALL)]
NAMES = [type(term).__name__ for term in TERMS]


def network() -> Network:
    torch.manual_seed(0)
    encoder = Plain()
    return Network(encoder, {"sex": nn.Linear(encoder.features, 3), "age": nn.Linear(encoder.features, 1)})


def step(of: Network, source: int = 7, target: int = 5, shift: float = 1.0, progress: float = 1.0) -> Step:
    random = np.random.default_rng(source + target)
    images = random.normal(size=(source + target, 4)) + shift * (np.arange(source + target) >= source)[:, None]
    images = torch.tensor(images, dtype=torch.float32)
    labels = [torch.zeros(source)]
    return Step(of, images, labels, labelled=source, progress=progress, whole=True)


def started(term, of: Network, targets=(SEX,)):
    torch.manual_seed(1)
    term.start(Beginning(of, targets=tuple(targets)))
    return term


def arrays(of: Step):
    """Features of the source and of the target as float64 arrays."""
    features = of.passed.features.detach().numpy().astype("float64")
    return features[: of.labelled], features[of.labelled :]


def layers(stack: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """What a stack of linear layers with ReLU between them gives."""
    linear = [layer for layer in stack if isinstance(layer, nn.Linear)]
    for place, layer in enumerate(linear):
        x = x @ layer.weight.detach().numpy().T.astype("float64") + layer.bias.detach().numpy()
        x = np.maximum(x, 0) if place < len(linear) - 1 else x
    return x


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def shares(of: Step) -> np.ndarray:
    return softmax(of.passed.outputs["sex"].detach().numpy().astype("float64"))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_a_reversed_gradient_is_exactly_minus_lambda_times_it_and_the_values_stay():
    x = torch.randn(5, 3, requires_grad=True)
    outcome = reversed_gradient(x, 0.3)
    assert torch.equal(outcome, x)
    gradient = torch.randn(5, 3)
    outcome.backward(gradient)
    assert torch.equal(x.grad, -0.3 * gradient)


def test_the_strength_of_reversal_is_that_of_the_paper_and_exact_at_both_ends():
    of = network()
    at = [strength_at(step(of, progress=p), True) for p in (0.0, 0.5, 1.0)]
    assert at[0] == 0.0
    assert at[1:] == pytest.approx([2 / (1 + np.exp(-5)) - 1, 2 / (1 + np.exp(-10)) - 1], rel=1e-12)
    assert strength_at(step(of, progress=0.0), False) == 1.0


def test_dann_is_the_cross_entropy_of_each_domain():
    of = network()
    term, seen = started(DANN(**SMALL), of), step(of)
    source, target = (sigmoid(layers(term.discriminator, part)[:, 0]) for part in arrays(seen))
    expected = -np.log(1 - source).mean() - np.log(target).mean()
    assert float(term(seen).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_discriminator_learns_the_domains_and_the_encoder_the_opposite_by_lambda():
    of = network()
    term = started(DANN(**SMALL), of)
    plain = step(of, progress=0.4)
    features = plain.passed.features.detach().requires_grad_()
    logits = term.discriminator(features)[:, 0]
    loss = nn.functional.binary_cross_entropy_with_logits
    (loss(logits[:7], torch.zeros(7)) + loss(logits[7:], torch.ones(5))).backward()
    own = [parameter.grad.clone() for parameter in term.parameters()]
    term.zero_grad()
    seen = step(of, progress=0.4)
    seen.passed.features.retain_grad()
    term(seen).backward()
    lambda_p = 2 / (1 + np.exp(-4.0)) - 1
    assert torch.allclose(seen.passed.features.grad, -lambda_p * features.grad, rtol=1e-4, atol=1e-8)
    assert all(torch.allclose(one.grad, other, atol=1e-7) for one, other in zip(term.parameters(), own))


def expected_cdan(term: CDAN, seen: Step, mapped: np.ndarray, entropy: bool) -> float:
    judged, g = sigmoid(layers(term.discriminators[0], mapped)[:, 0]), shares(seen)
    weights = 1 + np.exp((g * np.log(g)).sum(axis=1)) if entropy else np.ones(len(g))
    n = seen.labelled
    return -(weights[:n] * np.log(1 - judged[:n])).mean() - (weights[n:] * np.log(judged[n:])).mean()


@pytest.mark.parametrize("entropy", [True, False])
def test_cdan_joins_features_and_predictions_by_their_outer_product(entropy):
    of = network()
    term, seen = started(CDAN(entropy=entropy, **SMALL), of), step(of)
    mapped = np.einsum("bf,bk->bfk", np.concatenate(arrays(seen)), shares(seen)).reshape(12, -1)
    expected = expected_cdan(term, seen, mapped, entropy)
    assert float(term(seen).detach()) == pytest.approx(expected, rel=1e-5)


def test_cdan_projects_long_products_at_random(monkeypatch):
    monkeypatch.setattr("tlimb.objectives.cdan.WIDEST", 8)
    monkeypatch.setattr("tlimb.objectives.cdan.RANDOMISED", 16)
    of = network()
    term, seen = started(CDAN(**SMALL), of), step(of)
    drawn = term.maps[0]
    projected = np.concatenate(arrays(seen)) @ drawn.of_features.numpy()
    mapped = projected * (shares(seen) @ drawn.of_shares.numpy()) / np.sqrt(16)
    assert float(term(seen).detach()) == pytest.approx(expected_cdan(term, seen, mapped, True), rel=1e-4)
    assert {"maps.0.of_features", "maps.0.of_shares"} <= set(term.state_dict())


def test_random_projections_keep_inner_products_on_average():
    torch.manual_seed(0)
    joined = Multilinear(512, 10)
    f, g = torch.randn(2, 512), torch.rand(2, 10).softmax(1)
    (one, other), exact = joined(f, g), (f[0] @ f[0]) * (g[0] @ g[0])
    assert len(one) == 1024
    assert float(one @ one) == pytest.approx(float(exact), rel=0.3)
    assert abs(float(one @ other)) < 0.3 * float(exact)


def test_cdan_has_no_gradient_through_the_predictions():
    of = network()
    term = started(CDAN(**SMALL), of)
    term(step(of)).backward()
    assert of.head("sex").weight.grad is None
    assert of.encoder.layer.weight.grad.abs().sum() > 0


def expected_mmd(source: np.ndarray, target: np.ndarray, kernels: int) -> float:
    both = np.concatenate([source, target])
    squared = cdist(both, both, "sqeuclidean")
    mean = squared[~np.eye(len(both), dtype=bool)].mean()
    factors = 2.0 ** (np.arange(kernels) - (kernels - 1) / 2)
    k = np.mean([np.exp(-squared / (factor * mean)) for factor in factors], axis=0)
    n, m = len(source), len(target)
    ss, tt = k[:n, :n], k[n:, n:]
    inner = (ss.sum() - np.trace(ss)) / (n * (n - 1)) + (tt.sum() - np.trace(tt)) / (m * (m - 1))
    return inner - 2 * k[:n, n:].mean()


@pytest.mark.parametrize("kernels", [1, 2, 5])
def test_mmd_is_the_unbiased_estimate_with_several_kernels(kernels):
    of = network()
    seen = step(of)
    assert float(MMD(kernels)(seen).detach()) == pytest.approx(expected_mmd(*arrays(seen), kernels), rel=1e-4)


def test_mmd_is_unbiased_and_keeps_its_precision_far_from_zero():
    of, values = network(), []
    random = np.random.default_rng(0)
    for _ in range(300):
        features = torch.tensor(random.normal(size=(12, 3)) + 1000, dtype=torch.float32)
        values.append(float(MMD()(Step(of, features, [], labelled=6, whole=True, featured=True))))
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_deep_coral_sums_squares_over_4_d_squared():
    of = network()
    seen = step(of)
    apart = np.cov(arrays(seen)[0], rowvar=False) - np.cov(arrays(seen)[1], rowvar=False)
    assert float(DeepCORAL()(seen).detach()) == pytest.approx((apart**2).sum() / (4 * 3**2), rel=1e-5)


def test_mdd_is_minus_the_discrepancy_of_the_paper():
    of = network()
    term, seen = started(MDD(gamma=3.0, **SMALL), of), step(of)
    given = shares(seen).argmax(axis=1)
    p = softmax(layers(term.classifiers[0], np.concatenate(arrays(seen))))[np.arange(12), given]
    expected = -3.0 * np.log(p[:7]).mean() - np.log(1 - p[7:]).mean()
    assert float(term(seen).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_encoder_is_given_the_reversed_gradient_of_mdd_times_its_strength():
    of, gradients = network(), []
    for strength in (1.0, 0.1):
        of.zero_grad()
        started(MDD(strength=strength, schedule=False, **SMALL), of)(step(of)).backward()
        gradients.append(of.encoder.layer.weight.grad.clone())
    assert torch.allclose(gradients[1], 0.1 * gradients[0], rtol=1e-4, atol=1e-8)
    assert of.head("sex").weight.grad is None


def test_mdd_stays_finite_where_the_auxiliary_classifier_is_sure():
    logits = torch.tensor([[90.0, 0.0, 0.0], [-90.0, 0.0, 0.0]], requires_grad=True)
    values = log_of_others(logits, torch.tensor([0, 0]))
    assert values.detach().numpy() == pytest.approx([np.log(2) - 90, 0.0], abs=1e-5)
    values.sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("term", TERMS, ids=NAMES)
def test_a_batch_of_one_domain_costs_nothing_and_teaches_nothing(term):
    of = network()
    term = started(term, of)
    for source, target in ((6, 0), (0, 6)):
        of.zero_grad(), term.zero_grad()
        value = term(step(of, source, target))
        value.backward()
        assert float(value.detach()) == 0 and value.ndim == 0
        assert not of.encoder.layer.weight.grad.any()
        assert all(parameter.grad is None for parameter in term.parameters())


@pytest.mark.parametrize("term", [MMD(), DeepCORAL()], ids=["MMD", "DeepCORAL"])
def test_one_scan_of_a_domain_has_no_spread(term):
    of = network()
    assert float(term(step(of, 6, 1)).detach()) == 0


@pytest.mark.parametrize("term", TERMS, ids=NAMES)
def test_features_of_half_precision_are_computed_in_full(term):
    of = network()
    term, seen = started(term, of), step(of)
    whole, half = seen.passed.features.detach(), seen.passed.features.detach().bfloat16()
    exact = Step(of, half.float(), seen.labels, labelled=7, progress=1.0, whole=True, featured=True)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = {name: output.bfloat16() for name, output in of.predict(whole).items()}
        rounded = Step(of, half, seen.labels, labelled=7, progress=1.0, whole=True, featured=True)
        rounded.__dict__["passed"] = type(seen.passed)(half, outputs)
        value = term(rounded).detach()
    assert value.dtype == torch.float32
    small = 1e-6 if term in (TERMS[2], TERMS[3]) else 0.02
    assert float(value) == pytest.approx(float(term(exact).detach()), rel=small)


def trained(term, weight: float, domains: torch.Tensor, measure) -> tuple[Network, float]:
    """A network that learned a class of the source beside a term, and a measure's mean over the last third of steps."""
    of, values = network(), []
    term = started(term, of)
    images, label = domains.flatten(0, 1), (domains[0, :, 0] > 0).long()
    optimiser = torch.optim.Adam([*of.parameters(), *term.parameters()], lr=0.02, betas=(0.5, 0.99))
    for number in range(120):
        optimiser.zero_grad()
        seen = Step(of, images, [label], labelled=len(label), progress=number / 119, whole=True)
        (nn.functional.cross_entropy(seen.outputs["sex"], label) + weight * term(seen)).backward()
        optimiser.step()
        values += [measure(of, domains)] if number >= 80 else []
    return of, np.mean(values)


def two_domains(shift: float, scale: float) -> torch.Tensor:
    """(2, 64, 4): the second axis of the target is shifted and scaled; a class depends on the first one."""
    images = np.random.default_rng(0).normal(size=(2, 64, 4))
    images[1, :, 1] = images[1, :, 1] * scale + shift
    return torch.tensor(images, dtype=torch.float32)


@torch.no_grad()
def shift_of(of: Network, domains: torch.Tensor) -> float:
    """How far the domains' mean features are apart, in standard deviations."""
    source, target = of.encode(domains[0]), of.encode(domains[1])
    return float(((source.mean(0) - target.mean(0)) / source.std(0)).norm())


@torch.no_grad()
def spread_of(of: Network, domains: torch.Tensor) -> float:
    """How far the domains' covariances are apart, as a share of the source's."""
    source, target = (torch.cov(of.encode(part).T) for part in domains)
    return float((source - target).norm() / source.norm())


@cache
def unadapted(measure) -> tuple[torch.Tensor, float]:
    """Two domains, and how far apart they stay by a measure where nothing brings them together."""
    domains = two_domains(0.0, 3.0) if measure is spread_of else two_domains(4.0, 1.0)
    return domains, trained(DeepCORAL(), 0.0, domains, measure)[1]


@pytest.mark.parametrize(
    "term, weight, measure",
    [
        (DANN(16, 1), 1.0, shift_of),
        (CDAN(True, 16, 1), 1.0, shift_of),
        (MMD(), 1.0, shift_of),
        (DeepCORAL(), 30.0, spread_of),
        (MDD(width=16), 1.0, shift_of),
    ],
    ids=NAMES,
)
def test_a_term_brings_two_domains_together_and_the_class_is_still_learned(term, weight, measure):
    domains, without = unadapted(measure)
    adapted, apart = trained(term, weight, domains, measure)
    assert apart < 0.5 * without
    for part in domains:
        correct = adapted(part)["sex"].argmax(1) == (part[:, 0] > 0)
        assert float(correct.float().mean()) > 0.9


@pytest.mark.parametrize("term", [CDAN(**SMALL), MDD(**SMALL)], ids=["CDAN", "MDD"])
def test_terms_of_classes_refuse_quantities(term):
    with pytest.raises(InputError, match="needs a target of the kind classification, and age is regression"):
        started(term, network(), [AGE])


@pytest.mark.parametrize("term", [CDAN, MDD])
def test_several_targets_with_classes_count_alike(term):
    torch.manual_seed(0)
    of = Network(Plain(), {"sex": nn.Linear(3, 3), "hand": nn.Linear(3, 2), "age": nn.Linear(3, 1)})
    hand = Target("hand", "classification", ("left", "right"))
    both, seen = started(term(**SMALL), of, [SEX, hand, AGE]), step(of)
    value, values = float(both(seen).detach()), []
    for place, target in (("0", SEX), ("1", hand)):
        one = started(term(**SMALL), of, [target])
        parts = [(name.split(".", 2), tensor) for name, tensor in both.state_dict().items()]
        one.load_state_dict({f"{kind}.0.{name}": tensor for (kind, of_one, name), tensor in parts if of_one == place})
        values.append(float(one(seen).detach()))
    assert value == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DANN(width=0),
        lambda: DANN(depth=-1),
        lambda: CDAN(width=0),
        lambda: MMD(kernels=0),
        lambda: MDD(gamma=float("nan")),
        lambda: MDD(strength=-0.1),
    ],
)
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(InputError, match="expected at least"):
        make()


def objective_of(term: dict, of: Network):
    made = build_objective(written({"auxiliary": [term]}), [SEX])
    made.start(Beginning(of, targets=(SEX,)), seed=0)
    return made


def updated(made, of: Network, progress: float, rate: float = 0.1):
    """The objective's parameters after a step of AdamW with weight decay, and before."""
    before = {name: parameter.detach().clone() for name, parameter in made.named_parameters()}
    optimiser = torch.optim.AdamW([*of.parameters(), *made.parameters()], lr=rate, weight_decay=0.5)
    sum(made(step(of, progress=progress)).values()).backward()
    optimiser.step()
    return before, dict(made.named_parameters())


@pytest.mark.parametrize("name", ["DANN", "CDAN", "MDD"])
def test_what_a_term_owns_does_not_move_before_the_term_has_a_weight(name):
    of = network()
    weight = Ramp(ramp="step", until=0.5).model_dump()
    made = objective_of({"class_path": name, "init_args": SMALL, "weight": weight}, of)
    before, after = updated(made, of, progress=0.25)
    assert before and all(torch.equal(before[key], after[key]) for key in before)
    before, after = updated(made, of, progress=0.75)
    assert not any(torch.equal(before[key], after[key]) for key in before)


def test_a_frozen_discriminator_stays_frozen_and_still_teaches_the_encoder():
    of = network()
    made = objective_of({"class_path": "DANN", "init_args": SMALL}, of)
    made.requires_grad_(False)
    before, after = updated(made, of, progress=1.0)
    assert before and all(torch.equal(before[key], after[key]) for key in before)
    assert of.encoder.layer.weight.grad.abs().sum() > 0


def test_the_same_seed_makes_the_same_discriminator():
    made = [objective_of({"class_path": "DANN", "init_args": SMALL}, network()) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(made[0].parameters(), made[1].parameters()))


SOURCE = {"cohort": ["hospital"], "modality": None, "where": {}, "n": None, "missing": "error"}
TARGET = {"cohort": ["clinic"], "modality": None, "where": {}, "n": None}
DOMAINS = {"labelled": None, "source": SOURCE, "target": TARGET}
DANN_OF = {"class_path": "DANN", "init_args": {"width": 16}}


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """What `finetune` makes of auxiliary terms and the target's people: name -> (model.json, history, weights)."""
    folder = tmp_path_factory.mktemp("adaptation")
    set_up_torch(1, training=True)
    hospital, clinic = make_people("hospital", 21), make_people("clinic", 15, seed=1)
    make_store(folder / "store", pd.concat([hospital, clinic], ignore_index=True))
    parts = clinic.assign(split=SPLIT, role=["target"] * 10 + ["test"] * 5, times=1)
    table = pd.concat([roles(hospital, 5, 0), parts], ignore_index=True)

    def made(auxiliary: list[dict], table=table, name="job") -> tuple:
        spec = stage("adapt", "diagnosis", epochs=2, objective={"auxiliary": auxiliary}, strategy="scratch")
        spec["data"] |= DOMAINS
        trial, out = trial_line(spec), folder / f"models-{name}"
        pack_job(folder / name, table, [trial])
        shown = table["diagnosis"].mask(table["role"] == "test")
        write_parquet(folder / name / "table.parquet", table.drop(columns="age").assign(diagnosis=shown))
        finetune(folder / name, folder / "store", folder, out, Settings(torch.device("cpu")))
        model, found = out / trial["id"], read_json(out / trial["id"] / "model.json")
        assert found["status"] == "ok", found["reason"]
        return found, pd.read_csv(model / "history.csv"), load_file(model / "model.safetensors")

    other = table.assign(diagnosis=table["diagnosis"].where(table["role"] != "target", "patient"))
    return {
        "plain": made([]),
        "DANN": made([DANN_OF]),
        "DANN, other labels": made([DANN_OF], table=other, name="other"),
        "DANN of weight 0": made([DANN_OF | {"weight": 0.0}]),
        "MMD": made([{"class_path": "MMD"}]),
    }


def same_weights(one: tuple, other: tuple) -> bool:
    return all(torch.equal(one[2][name], other[2][name]) for name in one[2])


@pytest.mark.parametrize("name", ["DANN", "MMD"])
def test_a_stage_with_source_and_target_is_trained_with_a_term(finetuned, name):
    model, history, _ = finetuned[name]
    assert model["n"] == {"train": 16, "validation": 5, "test": 5, "unlabelled": 0, "target": 10}
    assert history[f"train_{name.lower()}"].notna().all() and len(history) == 2
    assert not same_weights(finetuned[name], finetuned["plain"])


def test_labels_of_the_target_change_nothing(finetuned):
    assert same_weights(finetuned["DANN"], finetuned["DANN, other labels"])


def test_a_term_of_weight_0_is_as_if_it_were_not_there(finetuned):
    assert same_weights(finetuned["DANN of weight 0"], finetuned["plain"])
    losses = ["train_loss", "validation_loss"]
    assert finetuned["DANN of weight 0"][1][losses].equals(finetuned["plain"][1][losses])
