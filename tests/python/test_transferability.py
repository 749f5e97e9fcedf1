"""Scores of encoders against the formulas in NumPy, PROBE on a real encoder, and how well scores order encoders."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from contracts import check_json
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, spearmanr

from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation import transferability as scores
from tlimb.evaluation.linear_probe import PENALTIES, Labelled, cross_validated, fit_probe
from tlimb.files import read_json, write_json, write_parquet
from tlimb.ranking.compare import Measure
from tlimb.ranking.results import Results
from tlimb.ranking.transferability import agreement_of, fine_tuned, transferability


def features_of(n: int, width: int, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, width), some of which know the class, and classes."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(n) % classes)
    return random.normal(size=(n, width)) + 0.7 * labels[:, None] * (np.arange(width) < 4), labels


@pytest.mark.parametrize("n, width", [(40, 6), (20, 50)])
def test_logme_is_the_largest_evidence_there_is(n, width):
    features, classes = features_of(n, width)
    columns = np.eye(2)[classes]

    def log_evidence(powers, column):
        covariance = np.exp(powers[1]) * np.eye(n) + np.exp(powers[0]) * features @ features.T
        return multivariate_normal(np.zeros(n), covariance).logpdf(column) / n

    expected = []
    for column in columns.T:
        ends = [minimize(lambda p: -log_evidence(p, column), x, method="Nelder-Mead").fun for x in ((-3, -2), (-6, -1))]
        expected.append(-min(ends))
    assert scores.logme(features, columns) == pytest.approx(np.mean(expected), abs=1e-5)


def test_leep_is_the_formula():
    random = np.random.default_rng(1)
    source, classes = random.dirichlet(np.ones(4), 30), random.integers(0, 3, 30)
    total = 0.0
    for i in range(30):
        expected = 0.0
        for z in range(4):
            joint = sum(source[j, z] for j in range(30) if classes[j] == classes[i]) / 30
            expected += joint / (source[:, z].sum() / 30) * source[i, z]
        total += np.log(expected)
    assert scores.leep(source, classes) == pytest.approx(total / 30, rel=1e-12)


def test_leep_of_a_source_that_knows_the_class_is_zero():
    classes = np.array([0, 1, 1, 0])
    assert scores.leep(np.eye(2)[classes], classes) == 0


def test_nleep_is_leep_of_a_mixture_on_principal_components():
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    features, classes = features_of(80, 12)
    reduced = PCA(0.8, svd_solver="full").fit_transform(features)
    own = scores.principal_components(features, 0.8)
    np.testing.assert_allclose(np.abs(own), np.abs(reduced), atol=1e-10)
    scaled = own / own.std(0).max()
    mixture = GaussianMixture(10, covariance_type="diag", n_init=3, reg_covar=1e-4, random_state=7).fit(scaled)
    assert scores.nleep(features, classes, 7) == pytest.approx(scores.leep(mixture.predict_proba(scaled), classes))
    mixed = np.random.default_rng(0).permutation(classes)
    assert scores.nleep(features, classes, 7) > scores.nleep(features, mixed, 7)


def test_h_score_is_the_trace_of_its_definition():
    features, classes = features_of(60, 5, 3)
    means = np.array([features[classes == one].mean(0) for one in classes])
    expected = np.trace(np.linalg.inv(np.cov(features.T)) @ np.cov(means.T))
    assert scores.h_score(features, classes) == pytest.approx(expected, rel=1e-10)
    assert np.isnan(scores.h_score(*features_of(6, 5)))


@pytest.mark.parametrize("n, width", [(60, 5), (20, 40)])
def test_shrunk_h_score_is_the_trace_with_ledoit_and_wolfs_covariance(n, width):
    from sklearn.covariance import LedoitWolf

    features, classes = features_of(n, width)
    shrunk = LedoitWolf().fit(features)
    means = np.array([features[classes == one].mean(0) for one in classes])
    between = np.cov(means.T, ddof=0)
    expected = np.trace(np.linalg.inv(shrunk.covariance_) @ ((1 - shrunk.shrinkage_) * between))
    assert scores.shrunk_h_score(features, classes) == pytest.approx(expected, rel=1e-9)


def test_neighbours_are_other_people():
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 2).astype(str)
    features = np.repeat(random.normal(size=(30, 4)), 2, axis=0)
    labels = np.repeat(random.permutation(np.arange(30) % 2), 2)
    alone = scores.knn_score(features, labels, np.arange(60).astype(str), "classification", 2)
    assert scores.knn_score(features, labels, people, "classification", 2) < 0.75 < alone


def test_neighbours_of_a_quantity_are_averaged():
    features, values = np.arange(12.0)[:, None], np.arange(12.0)
    nearest = [sorted((j for j in range(12) if j != i), key=lambda j: (abs(j - i), j))[:5] for i in range(12)]
    expected = np.array([np.mean(part) for part in nearest])
    r2 = 1 - ((values - expected) ** 2).sum() / ((values - values.mean()) ** 2).sum()
    assert scores.knn_score(features, values, values.astype(str), "regression") == pytest.approx(r2)


@pytest.mark.parametrize("n, width", [(40, 6), (15, 30)])
def test_a_probe_of_a_quantity_is_ridge_regression(n, width):
    features, _ = features_of(n, width)
    values = features[:, 0] * 3 + 5 + np.random.default_rng(2).normal(size=n)
    standard = (features - features.mean(0)) / features.std(0)
    weights = np.linalg.solve(standard.T @ standard + 0.1 * n * np.eye(width), standard.T @ (values - values.mean()))
    found = fit_probe(features, values, "regression", 0, 0.1)(features)[:, 0]
    np.testing.assert_allclose(found, standard @ weights + values.mean(), atol=1e-8)


def test_a_probe_of_classes_is_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    features, classes = features_of(40, 6, 3)
    standard = (features - features.mean(0)) / features.std(0)
    peer = LogisticRegression(C=1 / (0.1 * 40), tol=1e-8, max_iter=5000).fit(standard, classes)
    outputs = fit_probe(features, classes.astype(float), "classification", 3, 0.1)(features)
    shares = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, peer.predict_proba(standard), atol=1e-3)


def test_the_cross_validated_score_leaves_people_out():
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(40, 60)), 2, axis=0)
    truth = np.repeat(random.permutation(np.arange(40) % 2), 2).astype(float)
    known = cross_validated(Labelled(features, truth, np.arange(80).astype(str)), "classification", 2, 0)
    honest = cross_validated(Labelled(features, truth, np.repeat(np.arange(40), 2).astype(str)), "classification", 2, 0)
    assert honest[0] < 0.75 < known[0]
    assert honest[1] in PENALTIES


ENCODER, LOST, JOB = "e" * 12, "f" * 12, "a" * 12
NETWORK = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 2, "width": 0.125}}
SLICES = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial", "count": 1}}
DIAGNOSIS = {"kind": "classification", "classes": ["control", "patient"]}
COLUMNS = {"site": {"kind": "classification", "classes": ["a", "b"]}, "age": {"kind": "regression", "classes": []}}
SETTINGS = Evaluate(seed=0, probe=True, harmonise="site", keeping=["age"])


def write_encoder(folder, store) -> None:
    """An encoder and its head of two classes with weights of seed 5, as PRETRAIN leaves them."""
    from tlimb.architectures.build import build_network
    from tlimb.architectures.weights import save_weights, select
    from tlimb.data.fingerprint import recipe_of
    from tlimb.data.view import build_module

    shape = list(build_module(SLICES).input_shape(store.shape))
    tensors = build_network(NETWORK, tuple(shape), {"diagnosis": 2}, 5, recipe=recipe_of(store)).weights()
    save_weights(folder / "encoder.safetensors", select(tensors, "encoder."))
    save_weights(folder / "heads.safetensors", select(tensors, "heads."))
    looks = {"module": SLICES, "normalise": None, "dataset": {"class_path": "ScanDataset", "init_args": {}}}
    looks |= {"hooks": {"on_before_batch_transfer": None, "on_after_batch_transfer": None}}
    facts = {"id": ENCODER, "status": "ok", "reason": "", "stage": "pretrain", "seed": 5, "architecture": NETWORK}
    facts |= {"input_shape": shape, "heads": {}, "targets": {"diagnosis": DIAGNOSIS}, "recipe": recipe_of(store)}
    write_json(folder / "encoder.json", facts | looks | {"fingerprint": store.fingerprint, "persons": []})


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A function of a table's name and rows that gives probe.json, and rows of training and validation people."""
    torch = pytest.importorskip("torch")
    from training_jobs import make_people, make_store, roles

    from tlimb.evaluation.probe import probe
    from tlimb.store import Store

    folder, people = tmp_path_factory.mktemp("probe"), make_people("clinic", 20)
    make_store(folder / "store", people)
    write_encoder(folder / "encoders" / ENCODER, Store(folder / "store", ["all"]))
    lost = {"id": LOST, "status": "failed", "reason": "diverged", "stage": "pretrain", "seed": 1, "persons": []}
    write_json(folder / "encoders" / LOST / "encoder.json", lost | {"architecture": NETWORK})
    table = roles(people, 6, 0).assign(site=np.where(np.arange(20) % 3 == 0, "a", "b"))
    facts = {"id": JOB, "kind": "probe", "inits": [ENCODER, LOST], "recipe": "default", "shards": ["all"]}
    facts |= {"target": "diagnosis", "labels": {"diagnosis": DIAGNOSIS}, "columns": COLUMNS}
    facts |= {"starts": [], "files": []}

    def run(name: str, table: pd.DataFrame) -> dict:
        out = folder / f"{name}-out"
        if not out.exists():
            write_json(folder / name / "job.json", facts)
            write_parquet(folder / name / "table.parquet", table)
            probe(folder / name, folder / "store", folder / "encoders", out, SETTINGS, torch.device("cpu"))
        return read_json(out / JOB / "probe.json")

    return run, table


def without_times(document: dict) -> str:
    """The document but for how long it took."""
    return json.dumps([{**row, "seconds": 0} for row in document["encoders"]])


def test_probe_scores_every_encoder_and_a_random_one(probed):
    run, table = probed
    found = run("one", table)
    check_json("probe", found)
    assert [row["id"] for row in found["encoders"]] == ["random", ENCODER, LOST]
    assert [row["status"] for row in found["encoders"]] == ["ok", "ok", "failed"]
    for row in found["encoders"][:2]:
        (split,) = row["splits"]
        assert split["n"] == {"train": 14, "validation": 6}
        known = [name for name, value in split["scores"].items() if value is not None]
        always = {"logme", "nleep", "h_score_shrunk", "knn", "linear"}
        assert set(known) == (always if row["id"] == "random" else always | {"leep"})
        assert set(split["probe"]["validation"]) == {"balanced_accuracy", "auroc", "log_loss"}
        assert split["harmonised"]["reason"] == "" and split["harmonised"]["site"]["chance"] == 0.5
    one, two = (row["splits"][0]["scores"]["logme"] for row in found["encoders"][:2])
    assert one != two and "diverged" in found["encoders"][2]["reason"]


def test_labels_of_validation_people_change_no_score_of_transferability(probed):
    run, table = probed
    other = table["diagnosis"].map({"control": "patient", "patient": "control"})
    turned = table.assign(diagnosis=table["diagnosis"].mask(table["role"] == "validation", other))
    first, second = run("one", table), run("turned", turned)
    scored = [[row["splits"][0]["scores"] for row in document["encoders"][:2]] for document in (first, second)]
    assert scored[0] == scored[1]
    assert without_times(first) != without_times(second)


def test_probe_gives_the_same_numbers_whatever_the_order_of_rows(probed):
    run, table = probed
    first, second = run("one", table), run("shuffled", table.sample(frac=1, random_state=3))
    assert without_times(first) == without_times(second)


def encoders(values: list[float], reached: list[float]) -> list[dict]:
    """Rows of encoders with one score and what was fine-tuned from them."""
    return [{"scores": {"s": value}, "fine_tuned": {"full": {"mean": mean}}} for value, mean in zip(values, reached)]


def test_agreement_is_kendalls_and_spearmans_correlation():
    values, reached = [1.0, 2.0, 3.0, 4.0, 5.0], [0.6, 0.5, 0.7, 0.9, 0.8]
    found = agreement_of(encoders(values, reached), "s", "full", "max")
    pairs = list(itertools.combinations(range(5), 2))
    tau = np.mean([np.sign((values[j] - values[i]) * (reached[j] - reached[i])) for i, j in pairs])
    assert found["tau"] == pytest.approx(tau) and found["n"] == 5
    assert found["rho"] == pytest.approx(spearmanr(values, reached).statistic)
    orders = [abs(spearmanr(values, order).statistic) for order in itertools.permutations(reached)]
    assert found["rho_p"] == pytest.approx(np.mean(np.array(orders) >= abs(found["rho"]) - 1e-9))
    assert found["tau_low"] < found["tau"] < found["tau_high"] < 1


def test_agreement_turns_round_where_smaller_is_better():
    found = agreement_of(encoders([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0]), "s", "full", "min")
    assert found["tau"] == found["rho"] == 1 and found["rho_low"] is None


def test_few_encoders_have_no_agreement():
    found = agreement_of(encoders([1, 2, 3], [1.0, 2.0, 3.0]), "s", "full", "max")
    assert found["tau"] is None and "needs 4" in found["text"]


def probe_file(folder, ids: list[str]) -> None:
    """probe.json of encoders whose LogME rises with their number, of two splits, with one more that failed."""
    rows = []
    for number, identity in enumerate(["random", *ids]):
        splits = [split_of(name, {"logme": number + shift, "leep": None}) for name, shift in (("s", 0.0), ("t", 1.0))]
        facts = {"id": identity, "status": "ok", "reason": "", "architecture": "ResNet", "stage": "pretrain", "seed": 0}
        facts |= {"weights": None}
        rows.append(facts | {"features": 8, "seconds": 1.0, "splits": splits})
    rows.append(rows[-1] | {"id": LOST, "status": "failed", "reason": "diverged", "features": None, "splits": []})
    facts = {"id": JOB, "recipe": "default", "target": "diagnosis", "kind": "classification", "classes": ["a", "b"]}
    facts |= {"harmonise": None, "keeping": [], "encoders": rows, "note": ""}
    check_json("probe", facts)
    write_json(folder / JOB / "probe.json", facts)


def split_of(name: str, scored: dict) -> dict:
    reached = {"penalty": 1.0, "validation": {"auroc": 0.7}}
    facts = {"split": name, "n": {"train": 9, "validation": 3}, "scores": scored, "notes": []}
    return facts | {"probe": reached, "harmonised": None}


def trial_of(folder, identity: str, candidate: str, init: str, value: float, budget: int = 20) -> dict:
    """The line of a trial of 20 epochs, its strategy the first word of the candidate; its score is written."""
    stage = {"name": "last", "strategy": candidate.split()[0], "epochs": 20}
    scored = {"status": "ok", "reason": "", "targets": {"diagnosis": {"metrics": {"auroc": {"value": value}}}}}
    write_json(folder / "scores" / identity / "scores-validation.json", scored)
    spec = {"architecture": {"class_path": "ResNet"}, "stages": [stage]}
    return {"id": identity, "candidate": candidate, "init": init, "budget": budget, "spec": spec}


def results_of(folder, trials: list[dict], models: dict) -> Results:
    where = {name: folder / "scores" for name in ("encoders_folder", "models_folder", "scores_folder")}
    shared = {"sweep": {}, "cohort": {}, "pretrainings": [], "scans": pd.DataFrame(), "stores": {}, "encoders": {}}
    return Results(trials=trials, models=models, probes=folder / "probes", **where, **shared)


def test_an_encoder_is_judged_by_its_best_fully_trained_candidate(tmp_path):
    """Not by one that halving dropped, whatever its score, nor by a mean over settings; failed trials count against."""
    rows = [
        ("a1", "full slow", 0.5, 20), ("a2", "full slow", 0.6, 20), ("b1", "full fast", 0.8, 20),
        ("b2", "full fast", 0.7, 20), ("c1", "full wild", 0.99, 20), ("c2", "full wild", 0.99, 20),
        ("d1", "full short", 0.95, 5), ("e1", "frozen", 0.9, 5),
    ]  # fmt: skip
    trials = [trial_of(tmp_path, name, candidate, "E", value, budget) for name, candidate, value, budget in rows]
    models = {trial["id"]: {"status": "failed" if trial["id"] == "c2" else "ok"} for trial in trials}
    results = results_of(tmp_path, trials, models)
    found = fine_tuned(results, "diagnosis", Measure("auroc", "classification", 100, 0.95, 0))
    assert found == {"E": {"full": {"mean": pytest.approx(0.75), "trials": 2, "candidate": "full fast", "of": 3}}}
    found = fine_tuned(results, "diagnosis", Measure("mae", "regression", 100, 0.95, 0))
    assert found == {"E": {}}


def test_the_best_is_the_least_where_smaller_is_better(tmp_path):
    trials = [trial_of(tmp_path, name, f"full {name}", "E", value) for name, value in (("a", 0.2), ("b", 0.1))]
    for trial in trials:
        path = tmp_path / "scores" / trial["id"] / "scores-validation.json"
        path.write_text(path.read_text().replace("auroc", "brier"))
    results = results_of(tmp_path, trials, {trial["id"]: {"status": "ok"} for trial in trials})
    found = fine_tuned(results, "diagnosis", Measure("brier", "classification", 100, 0.95, 0))
    assert found["E"]["full"]["candidate"] == "full b" and found["E"]["full"]["mean"] == 0.1


def test_the_ranking_says_how_well_scores_told_what_came_out(tmp_path):
    """The order of five encoders is right but for one pair of neighbours; frozen ones are too few; no test is read."""
    ids = [str(number) * 12 for number in range(5)]
    probe_file(tmp_path / "probes", ids)
    trials, models, reached = [], {}, [0.5, 0.6, 0.7, 0.9, 0.8]
    for number, (identity, value) in enumerate(zip(ids, reached)):
        for strategy in ["full", "frozen"] if number < 3 else ["full"]:
            trials.append(trial_of(tmp_path, f"{strategy}{number}", strategy, identity, value))
            models[trials[-1]["id"]] = {"status": "ok"}
    results = results_of(tmp_path, trials, models)
    found = transferability(results, [], "diagnosis", Measure("auroc", "classification", 100, 0.95, 0))
    assert found["scores"] == ["logme"]
    assert [row["id"] for row in found["encoders"]] == ["random", *ids, LOST]
    assert found["encoders"][1]["scores"]["logme"] == 1.5 and found["encoders"][1]["splits"] == 2
    assert found["encoders"][1]["fine_tuned"]["full"] == {"mean": 0.5, "trials": 1, "candidate": "full", "of": 1}
    by = {row["strategy"]: row for row in found["agreement"]}
    assert by["full"]["tau"] == pytest.approx(0.8) and by["full"]["rho"] == pytest.approx(0.9) and by["full"]["n"] == 5
    assert by["frozen"]["tau"] is None and by["frozen"]["n"] == 3


def test_without_probes_there_is_nothing_to_say(tmp_path):
    where = {name: tmp_path for name in ("encoders_folder", "models_folder", "scores_folder")}
    shared = {"sweep": {}, "cohort": {}, "trials": [], "pretrainings": [], "scans": pd.DataFrame(), "stores": {}}
    results = Results(encoders={}, models={}, **where, **shared)
    assert transferability(results, [], "diagnosis", Measure("auroc", "classification", 100, 0.95, 0)) is None
