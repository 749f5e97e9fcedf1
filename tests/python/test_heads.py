"""Heads and kinds of target, from a label's cell to predictions and scores."""

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import check_json, check_table
from training_jobs import (
    LABELS,
    make_people,
    make_store,
    pack_job,
    pretrain_job,
    roles,
    stage,
    trial_line,
    with_more_labels,
)

from tlimb.architectures.build import build_network
from tlimb.architectures.heads import AttentionPoolHead, MLPHead, PredictionHead, ProjectionHead
from tlimb.data.bins import Bins
from tlimb.data.targets import Target, fit_targets, known_targets, read_targets
from tlimb.errors import InputError
from tlimb.evaluation.metrics import METRICS
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.predict import evaluate, read_model
from tlimb.files import read_json
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.pretrain import pretrain
from tlimb.scenarios.results import Settings

RESNET = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 2, "width": 0.125}}
BINS = {"low": None, "high": None, "width": 5.0, "sigma": 3.0}


class Encoder(torch.nn.Module):
    """What heads ask of an encoder."""

    features, channels = 6, 4


def close(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-6)


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype("float64")


def test_an_mlp_head_is_its_layers_one_after_the_other():
    head, features = MLPHead(Encoder(), 3, hidden=[5, 7], dropout=0.5).eval(), torch.randn(4, 6)
    value = array(features)
    for number, layer in enumerate(module for module in head if isinstance(module, torch.nn.Linear)):
        value = value @ array(layer.weight).T + array(layer.bias)
        value = np.maximum(value, 0) if number < 2 else value
    close(head(features), value)
    assert not torch.equal(head.train()(features), head(features))
    assert sum(p.numel() for p in MLPHead(Encoder(), 2).parameters()) == 6 * 128 + 128 + 128 * 2 + 2


@pytest.mark.parametrize("shape", [(5,), (3, 2), (2, 3, 2)])
def test_attention_pooling_is_the_papers_formula_whatever_the_axes(shape):
    head, maps = AttentionPoolHead(Encoder(), 2, hidden=5), torch.randn(3, 4, *shape)
    h = array(maps).reshape(3, 4, -1).transpose(0, 2, 1)
    layers = (head.attend, head.gate, head.weigh)
    v, u, w = (lambda x, m=layer: x @ array(m.weight).T + array(m.bias) for layer in layers)
    scores = w(np.tanh(v(h)) / (1 + np.exp(-u(h))))[..., 0]
    a = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    z = (a[..., None] * h).sum(axis=1)
    close(head.attention(maps), a)
    close(head(maps), z @ array(head.classify.weight).T + array(head.classify.bias))


def test_attention_pooling_does_not_ask_where_a_position_is():
    head, maps = AttentionPoolHead(Encoder(), 2), torch.randn(2, 4, 9)
    torch.testing.assert_close(head(maps), head(maps[:, :, torch.randperm(9)]))


def normalised(value: np.ndarray) -> np.ndarray:
    return (value - value.mean(axis=0)) / np.sqrt(value.var(axis=0) + 1e-5)


def test_a_projection_head_is_that_of_simclr():
    head, features = ProjectionHead(Encoder(), layers=2, hidden=5, width=3), torch.randn(8, 6)
    hidden = np.maximum(normalised(array(features) @ array(head[0].weight).T), 0)
    close(head(features), normalised(hidden @ array(head[3].weight).T))
    assert {name for name, _ in head.named_parameters()} == {"0.weight", "1.weight", "1.bias", "3.weight", "4.weight"}
    plain = ProjectionHead(Encoder(), batch_norm=False)
    assert [tuple(p.shape) for p in plain.parameters()] == [(6, 6), (6,), (128, 6), (128,)]


def test_a_prediction_head_is_a_projection_and_a_prediction_as_of_byol():
    head, features = PredictionHead(Encoder(), hidden=5, width=3), torch.randn(8, 6)

    def perceptron(value, layers):
        inner = np.maximum(normalised(value @ array(layers[0].weight).T + array(layers[0].bias)), 0)
        return inner @ array(layers[3].weight).T

    projected = perceptron(array(features), head.projection)
    close(head.project(features), projected)
    close(head(features), perceptron(projected, head.prediction))
    assert sum(p.numel() for p in PredictionHead(Encoder()).parameters()) == sum([
        6 * 4096 + 4096 + 2 * 4096 + 4096 * 256, 256 * 4096 + 4096 + 2 * 4096 + 4096 * 256,
    ])  # fmt: skip


def test_a_head_without_a_target_needs_no_width():
    spec = {"projection": {"class_path": "ProjectionHead", "init_args": {"width": 16}}}
    network = build_network(RESNET, (1, 16, 16), {"age": 1}, 0, heads=spec)
    assert {name: tuple(out.shape) for name, out in network(torch.randn(3, 1, 16, 16)).items()} == {
        "age": (3, 1), "projection": (3, 16),
    }  # fmt: skip


def test_another_head_leaves_the_encoder_and_the_other_heads_as_they_start():
    outputs, other = {"age": 1, "sex": 2}, {"age": {"class_path": "MLPHead", "init_args": {}}}
    plain, changed = (build_network(RESNET, (1, 16, 16), outputs, 3, heads=heads) for heads in ({}, other))
    before, after = plain.weights(), changed.weights()
    same = [name for name in before if not name.startswith("heads.age.")]
    assert same and all(torch.equal(before[name], after[name]) for name in same)


def test_bins_are_fitted_to_the_training_labels_and_saved():
    train = pd.DataFrame({"age": [41.2, 78.9, 55.0, np.nan]})
    (target,) = fit_targets(LABELS, ["age"], train, {"age": {"bins": BINS}})
    assert target.bins == Bins(40.0, 80.0, 5.0, 3.0) and target.outputs == 8
    assert read_targets({"age": target.facts()}) == [target]
    (one,) = fit_targets(LABELS, ["age"], train, {"age": {"bins": BINS | {"low": 41.0}}})
    assert (one.bins.low, one.bins.high) == (41.0, 81.0)
    ends = fit_targets(LABELS, ["age"], pd.DataFrame({"age": [0.1, 0.7]}), {"age": {"bins": BINS | {"width": 0.1}}})
    assert (ends[0].bins.count, ends[0].outputs) == (6, 6)


@pytest.mark.parametrize(("bins", "message"), [
    ({"low": 42.0, "high": 82.0}, "1 of 3 training labels lie outside of the bins, 42 to 82"),
    ({"low": 40.0, "high": 82.0}, "do not fill 40 to 82"),
    ({"low": 40.0, "high": 90.0, "width": 50.0}, "fewer than two bins"),
])  # fmt: skip
def test_bins_that_do_not_fit_are_told(bins, message):
    with pytest.raises(InputError, match=message):
        fit_targets(LABELS, ["age"], pd.DataFrame({"age": [41.2, 78.9, 55.0]}), {"age": {"bins": BINS | bins}})


def test_what_cannot_be_learned_is_told_for_all_targets_at_once():
    train = pd.DataFrame({"relapse": [-3.0, -1.0, -2.0], "grade": ["none", "mild", "none"]})
    with pytest.raises(InputError) as caught:
        fit_targets(LABELS, ["relapse", "grade"], train, {"grade": {"bins": BINS}})
    assert "event was seen in none of the 3" in str(caught.value) and "bins are for quantities" in str(caught.value)


def test_what_a_network_knows_otherwise_than_the_data_is_told_for_all_targets_at_once():
    facts = {
        "age": {"kind": "classification", "classes": ["0", "1"]},
        "grade": {"kind": "ordinal", "classes": ["none", "mild"]},
    }
    with pytest.raises(InputError) as caught:
        known_targets(facts, LABELS, ["age", "grade", "relapse"], "encoder 9ab2")
    assert [str(problem) for problem in caught.value.problems] == [
        "encoder 9ab2: learned 'age' as classification, and here it is regression",
        "encoder 9ab2: learned the classes none, mild of 'grade', and the data have none, mild, severe",
        "encoder 9ab2: has not learned 'relapse' (valid: age, grade)",
    ]
    fewer = {"grade": {"kind": "ordinal", "classes": ["mild"]}}
    assert known_targets(facts, fewer, ["grade"], "encoder 9ab2")[0].classes == ("none", "mild")
    turned = {"grade": {"kind": "ordinal", "classes": ["mild", "none"]}}
    with pytest.raises(InputError, match="learned the classes none, mild of 'grade', and the data have mild, none"):
        known_targets(facts, turned, ["grade"], "encoder 9ab2")


def test_several_classes_become_ones_and_zeros_and_their_names_again():
    target = Target("findings", "multilabel", ("a", "b", "c"))
    cells = pd.Series(["a;c", ";", None, "b"], dtype="str")
    np.testing.assert_array_equal(target.encode(cells), [[1, 0, 1], [0, 0, 0], [np.nan] * 3, [0, 1, 0]])
    np.testing.assert_array_equal(target.truth(cells), [5, 0, np.nan, 2])
    assert target.names(target.truth(cells)) == ["a;c", ";", None, "b"]
    said, probabilities = target.decode(np.array([[3.0, -2, 1], [-1, 0.5, -800]]))
    assert said.tolist() == [5, 2] and probabilities[1, 2] == 0
    with pytest.raises(InputError, match="unknown class 'd'"):
        target.encode(pd.Series(["a;d"]))


def test_most_classes_at_once_are_told_apart_exactly():
    target = Target("many", "multilabel", tuple(f"c{i}" for i in range(50)))
    cells = pd.Series(["c0;c49", "c48"])
    assert target.names(target.truth(cells)) == cells.tolist()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One network with a head for every kind of target, trained, saved and evaluated."""
    set_up_torch(1, training=True)
    folder = tmp_path_factory.mktemp("kinds")
    table = roles(with_more_labels(make_people("clinic", 24, seed=1)), 8, 6)
    table.loc[[0, 3], "findings"] = None
    heads = {
        "age": {"class_path": "MLPHead", "init_args": {"hidden": 8}, "bins": BINS | {"low": 20.0, "high": 80.0}},
        "grade": {"class_path": "AttentionPoolHead", "init_args": {"hidden": 4}, "bins": None},
    }
    trial = trial_line(stage("finetune", "age", strategy="scratch", targets=list(LABELS), heads=heads))
    make_store(folder / "store", table)
    pack_job(folder / "job", table, [trial])
    finetune(folder / "job", folder / "store", None, folder / "models", Settings(torch.device("cpu")))
    quick = Evaluate(bootstrap=100)
    evaluate(folder / "job", folder / "store", folder / "models", folder / "scores", quick, torch.device("cpu"))
    return folder, trial["id"], table


def test_a_network_with_heads_of_every_kind_is_trained_saved_and_scored(world):
    folder, trial, table = world
    about = read_json(folder / "models" / trial / "model.json")
    assert about["status"] == "ok", about["reason"]
    check_json("model", about)
    assert about["targets"]["age"]["bins"] == {"low": 20.0, "high": 80.0, "width": 5.0, "sigma": 3.0}
    for part in ("validation", "test"):
        scores = read_json(folder / "scores" / trial / f"scores-{part}.json")
        predictions = pd.read_parquet(folder / "scores" / trial / f"predictions-{part}.parquet")
        check_json("scores", scores)
        check_table("predictions", predictions)
        for name, facts in scores["targets"].items():
            assert facts["kind"] == LABELS[name]["kind"] and list(facts["metrics"]) == METRICS[facts["kind"]]
            assert set(predictions["target"]) == set(LABELS)


def test_predictions_say_what_the_tables_said(world):
    folder, trial, table = world
    found = pd.read_parquet(folder / "scores" / trial / "predictions-test.parquet")
    rows = table[table["role"] == "test"].sort_values("scan_id")
    of = {name: part.reset_index(drop=True) for name, part in found.groupby("target")}
    for name in ("diagnosis", "grade", "findings"):
        assert of[name]["truth_label"].tolist() == rows[name].tolist()
        assert of[name]["event"].isna().all()
    assert of["relapse"]["truth"].tolist() == rows["relapse"].abs().tolist()
    assert of["relapse"]["event"].tolist() == (rows["relapse"] > 0).astype(float).tolist()
    assert of["age"]["prediction"].between(20, 80).all() and of["age"]["probabilities"].isna().all()
    grade, findings = (np.stack(of[name]["probabilities"]) for name in ("grade", "findings"))
    np.testing.assert_allclose(grade.sum(axis=1), 1)
    assert np.array_equal((findings >= 0.5) @ [1.0, 2.0], of["findings"]["prediction"])


def test_the_history_has_the_metric_of_each_target_that_evaluation_finds_again(world):
    folder, trial, _ = world
    best = read_json(folder / "models" / trial / "model.json")["best_epoch"]
    row = pd.read_csv(folder / "models" / trial / "history.csv").set_index("epoch").loc[best]
    scores = read_json(folder / "scores" / trial / "scores-validation.json")["targets"]
    default = {"age": "mae", "grade": "quadratic_kappa", "findings": "mean_auroc", "relapse": "c_index"}
    for name, metric in default.items():
        value = scores[name]["metrics"][metric]["value"]
        assert row[f"validation_{name}_{metric}"] == pytest.approx(value, rel=1e-4), name


def test_a_saved_model_has_the_targets_that_it_was_trained_with(world):
    folder, trial, _ = world
    model, about = read_model(folder / "models" / trial), read_json(folder / "models" / trial / "model.json")
    assert {target.name: target.facts() for target in model.targets} == about["targets"]
    assert {name: type(head).__name__ for name, head in zip(model.network.names, model.network.heads)} == {
        **dict.fromkeys(LABELS, "LinearHead"), "age": "MLPHead", "grade": "AttentionPoolHead",
    }  # fmt: skip


def test_a_soft_bin_head_is_kept_and_used_as_it_is_by_direct_transfer(tmp_path):
    set_up_torch(1, training=True)
    first, second = make_people("lifespan", 16, seed=3), make_people("clinic", 16, seed=4)
    make_store(tmp_path / "store", pd.concat([first, second], ignore_index=True))
    heads = {"age": {"class_path": "LinearHead", "init_args": {}, "bins": BINS | {"low": 0.0, "high": 100.0}}}
    line = pretrain_job(tmp_path / "pretrain", roles(first, 4, 4), stage("pretrain", "age", heads=heads, epochs=1))
    settings = Settings(torch.device("cpu"))
    folder = pretrain(tmp_path / "pretrain", tmp_path / "store", None, tmp_path / "encoders", settings)
    saved = read_json(folder / "encoder.json")["targets"]["age"]
    trial = trial_line(stage("finetune", "age", strategy="direct", heads=heads), init=line["id"])
    pack_job(tmp_path / "job", roles(second, 4, 4), [trial])
    finetune(tmp_path / "job", tmp_path / "store", tmp_path / "encoders", tmp_path / "models", settings)
    about = read_json(tmp_path / "models" / trial["id"] / "model.json")
    assert about["status"] == "ok" and about["targets"]["age"] == saved, about["reason"]
    assert saved["bins"] == {"low": 0.0, "high": 100.0, "width": 5.0, "sigma": 3.0}


def test_bins_alone_leave_the_head_that_the_network_prefers():
    bins = {"age": {"class_path": None, "init_args": {}, "bins": {"width": 5.0}}}
    network = build_network({"class_path": "CAE", "init_args": {"dims": 2}}, (1, 40, 40), {"age": 4}, 0, heads=bins)
    assert type(network.head("age")).__name__ == "CodeClassifier"
