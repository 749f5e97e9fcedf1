"""Published weights that trials start from, scored before training beside the encoders of a sweep."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from contracts import check_json
from test_transferability import ENCODER, JOB, SETTINGS, SLICES, results_of, without_times, write_encoder
from training_jobs import make_people, make_store, roles, stage, trial_line

from tlimb.config import Weights, read_sweep
from tlimb.data.images import Images
from tlimb.data.modules import CropCenterDataModule
from tlimb.errors import InputError
from tlimb.evaluation.probe import Shown, known_of_published, probe
from tlimb.evaluation.published import Published
from tlimb.files import read_json, write_json, write_parquet
from tlimb.ranking.compare import Measure
from tlimb.ranking.transferability import fine_tuned, published_names, transferability
from tlimb.search.again import Again
from tlimb.search.jobs import write_round
from tlimb.search.named_files import content_digest
from tlimb.search.preprocessed import all_fine
from tlimb.search.starts import encoder_of, published_start
from tlimb.search.suggest import suggest
from tlimb.store import Store

CPU = torch.device("cpu")
THREE = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial", "count": 3}}
RESNET18 = {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 2}}
SMALL = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 2, "width": 0.125}}
ZSCORE = {"class_path": "DatasetZScore", "init_args": {}}
DIAGNOSIS = {"kind": "classification", "classes": ["control", "patient"]}
MEASURE = Measure("auroc", "classification", 100, 0.95, 0)


def start_of(path: str, architecture=RESNET18, module=THREE, normalise=None, content="0", **weights) -> dict:
    """The published start of a trial that begins with such weights. content: decides the digest of the files."""
    asked = Weights(path=path, **weights).model_dump() | {"digest": content * 16}
    last = stage("finetune", "diagnosis", module=module, normalise=normalise, weights=asked)
    return published_start(trial_line(last, architecture=architecture)["spec"])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of 20 people, torchvision's network in a file, an encoder of tlimb in a folder, and people's roles."""
    from torchvision.models import resnet18

    folder, people = tmp_path_factory.mktemp("published"), make_people("clinic", 20)
    make_store(folder / "store", people)
    torch.manual_seed(3)
    torch.save(resnet18().state_dict(), folder / "resnet18.pth")
    write_encoder(folder / "encoders" / ENCODER, Store(folder / "store", ["all"]))
    table = roles(people, 6, 0).assign(site=np.where(np.arange(20) % 3 == 0, "a", "b"))
    return folder, table


def probed(world, out, starts: list[dict], places: dict, inits=(), table=None) -> list[dict]:
    """The rows of a probe of these starts, whose paths lie at `places`."""
    folder, whole = world
    listed = [{"path": path, "digest": content_digest(file), "file": str(file)} for path, file in places.items()]
    facts = {"id": JOB, "kind": "probe", "level": 0, "parent": "", "inits": list(inits), "recipe": "default"}
    facts |= {"shards": ["all"], "target": "diagnosis", "labels": {"diagnosis": DIAGNOSIS}, "starts": starts}
    columns = {"site": {"kind": "classification", "classes": ["a", "b"]}, "age": {"kind": "regression", "classes": []}}
    facts |= {"columns": columns, "files": listed, "devices": 1, "licence": None}
    check_json("job", facts)
    write_json(out / "job" / "job.json", facts)
    write_parquet(out / "job" / "table.parquet", whole if table is None else table)
    encoders = folder / "encoders" if inits else None
    probe(out / "job", folder / "store", encoders, out, SETTINGS, CPU, files=places)
    found = read_json(out / JOB / "probe.json")
    check_json("probe", found)
    return found["encoders"]


def test_features_are_those_of_torchvisions_own_network(world, capsys):
    from torchvision.models import resnet18

    folder, table = world
    store, scans = Store(folder / "store", ["all"]), sorted(table["scan_id"])
    start = Published(start_of("resnet18.pth"), {"resnet18.pth": folder / "resnet18.pth"}, None)
    known = known_of_published(start, None, Shown(store, scans, CPU))
    theirs = resnet18()
    theirs.load_state_dict(torch.load(folder / "resnet18.pth", weights_only=True))
    theirs.fc = torch.nn.Identity()
    images = Images(store, CropCenterDataModule(slices="axial", count=3), scans)(scans)
    with torch.no_grad():
        wanted = theirs.eval()(images.float()).numpy()
    np.testing.assert_allclose(known.features[[known.row[scan] for scan in scans]], wanted, rtol=1e-4, atol=1e-5)
    assert known.heads == {} and "resnet18.pth" in capsys.readouterr().out
    born = known_of_published(start, None, Shown(store, scans, CPU), untrained=True)
    assert not np.allclose(born.features, known.features)


def test_published_weights_stand_beside_random_ones_and_those_that_do_not_fit_say_why(world, tmp_path):
    folder, _ = world
    starts = [start_of("resnet18.pth"), start_of("resnet18.pth", SMALL)]
    rows = probed(world, tmp_path, starts, {"resnet18.pth": folder / "resnet18.pth"})
    assert [row["id"] for row in rows] == ["random", "random", *(start["id"] for start in starts)]
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "failed"]
    assert [row["weights"] for row in rows] == [None, None, "resnet18.pth", "resnet18.pth"]
    assert rows[2]["stage"] is rows[2]["seed"] is None and {row["features"] for row in rows[:3]} == {64, 512}
    (scored,) = rows[2]["splits"]
    assert scored["n"] == {"train": 14, "validation": 6} and scored["scores"]["logme"] is not None
    assert scored["harmonised"]["site"]["chance"] == 0.5 and "the encoder" in rows[3]["reason"]
    with pytest.raises(InputError, match="resnet18.pth: has changed since the run was planned"):
        (tmp_path / "other.pth").write_bytes(b"another")
        facts = read_json(tmp_path / "job" / "job.json")
        changed = {"resnet18.pth": tmp_path / "other.pth"}
        assert facts["files"]
        probe(tmp_path / "job", folder / "store", None, tmp_path / "again", SETTINGS, CPU, files=changed)


def test_the_command_takes_files_in_the_order_of_the_job_and_needs_no_encoders(world, tmp_path):
    folder, _ = world
    places = {"theirs": folder / "encoders" / ENCODER, "resnet18.pth": folder / "resnet18.pth"}
    wanted = probed(world, tmp_path, [start_of("resnet18.pth"), start_of("theirs", SMALL, SLICES)], places)
    write_json(tmp_path / "settings.json", SETTINGS.model_dump(include={"seed", "probe", "harmonise", "keeping"}))
    asked = ["--job", tmp_path / "job", "--store", folder / "store", "--settings", tmp_path / "settings.json"]
    files = [word for path in places.values() for word in ("--file", path)]
    main = runpy.run_path(str(Path(__file__).parents[2] / "bin" / "tlimb_probe.py"))["main"]
    done = CliRunner().invoke(main, [str(word) for word in [*asked, *files, "--out", tmp_path / "told"]])
    assert done.exit_code == 0, done.output
    found = read_json(tmp_path / "told" / JOB / "probe.json")["encoders"]
    assert without_times({"encoders": found}) == without_times({"encoders": wanted})


def test_a_published_folder_of_tlimb_has_the_scores_of_the_encoder_that_it_holds(world, tmp_path):
    folder, _ = world
    start = start_of("theirs", SMALL, SLICES)
    rows = probed(world, tmp_path, [start], {"theirs": folder / "encoders" / ENCODER}, [ENCODER])
    assert [row["id"] for row in rows] == ["random", ENCODER, start["id"]]
    one, two = rows[1]["splits"], rows[2]["splits"]
    assert one == two and one[0]["scores"]["leep"] is not None
    deeper = {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 2, "width": 0.125}}
    start = start_of("theirs", deeper, SLICES, minimum=0.1)
    (_, other) = probed(world, tmp_path / "b", [start], {"theirs": folder / "encoders" / ENCODER})
    assert other["status"] == "ok" and other["splits"][0]["scores"]["leep"] is None


def test_people_of_validation_who_made_a_published_encoder_are_refused(world, tmp_path):
    from tlimb.persons import person_digest

    folder, table = world
    person = table.loc[table["role"] == "validation", "person"].iloc[0]
    seen = tmp_path / "seen"
    seen.mkdir()
    for file in (folder / "encoders" / ENCODER).iterdir():
        (seen / file.name).write_bytes(file.read_bytes())
    write_json(seen / "encoder.json", read_json(seen / "encoder.json") | {"persons": [person_digest(person)]})
    with pytest.raises(InputError, match=f"person {person} of validation took part in pretraining {ENCODER}"):
        probed(world, tmp_path, [start_of("theirs", SMALL, SLICES)], {"theirs": seen})


def test_the_normaliser_is_fitted_on_the_training_scans_of_each_split_alone(world, tmp_path):
    folder, table = world
    places, start = {"theirs": folder / "encoders" / ENCODER}, start_of("theirs", SMALL, SLICES, ZSCORE)
    other = table.assign(split="b" * 12, role=table["role"].to_numpy()[::-1], times=np.where(np.arange(20) == 19, 3, 1))
    both = probed(world, tmp_path / "both", [start], places, table=pd.concat([table, other], ignore_index=True))
    for number, one in enumerate((table, other)):
        alone = probed(world, tmp_path / str(number), [start], places, table=one)
        (wanted,) = alone[1]["splits"]
        assert wanted in both[1]["splits"]
    plain = probed(world, tmp_path / "plain", [start_of("theirs", SMALL, SLICES)], places)
    assert plain[1]["splits"][0]["scores"] != both[1]["splits"][0]["scores"]


@pytest.fixture
def sweep(document):
    """A sweep whose trials start from one of two files of weights, or from the stage before."""
    document["evaluate"] = {"probe": True}
    weights = [{"path": "a.pth"}, {"path": "b.pth", "map": "b.json"}, None]
    document["search"] = {"seeds": [0, 1], "space": {"stages.finetune.weights": weights}}
    return read_sweep(document)


FILES = {name: {"digest": str(i) * 16, "file": f"/data/{name}"} for i, name in enumerate(("a.pth", "b.pth", "b.json"))}


def test_a_round_asks_for_published_encoders_once_with_their_files(sweep, table, labels, tmp_path):
    recipes = all_fine(table, ["default"])
    proposal = suggest(sweep, table, labels, recipes, files=FILES)
    starts = {encoder_of(trial) for trial in proposal.trials if not trial["init"]}
    made = {trial["init"] for trial in proposal.trials} - {""}
    (split,) = proposal.probes
    assert len(starts) == 2 and set(proposal.probes[split]) == starts | made and not starts & made
    assert set(proposal.study.probed[split]) == starts | made
    write_round(tmp_path, proposal, table, {"labels": labels, "files": FILES}, 4, evaluate=sweep.evaluate)
    jobs = [read_json(path) for path in (tmp_path / "jobs").glob("*/job.json")]
    (job,) = [job for job in jobs if job["kind"] == "probe"]
    check_json("job", job)
    assert [start["id"] for start in job["starts"]] == sorted(starts) and set(job["inits"]) == made
    assert job["files"] == [{"path": path, **FILES[path]} for path in ("a.pth", "b.json", "b.pth")]
    known = Again(ids=frozenset(trial["id"] for trial in proposal.trials if not trial["init"]))
    assert {split: set(inits) for split, inits in known.new(proposal).probes.items()} == {split: made}


def test_every_encoder_is_probed_on_scans_of_its_own_recipe(document, table, labels, tmp_path):
    document |= {"recipes": {"default": {}, "other": {"spacing": 3}}, "evaluate": {"probe": True}}
    space = {"stages.*.data.recipe": ["other", "default"], "stages.finetune.weights": [{"path": "a.pth"}, None]}
    document["search"] = {"seeds": [0], "space": space}
    recipes = all_fine(table, document["recipes"])
    proposal = suggest(read_sweep(document), table, labels, recipes, files=FILES)
    (split,) = proposal.probes
    assert len(proposal.probes[split]) == 4 == len(proposal.trials)
    write_round(tmp_path, proposal, table, {"labels": labels, "files": FILES}, 4)
    jobs = [read_json(path) for path in (tmp_path / "jobs").glob("*/job.json")]
    probes = {job["recipe"]: job for job in jobs if job["kind"] == "probe"}
    assert set(probes) == {"default", "other"} and len({job["id"] for job in probes.values()}) == 2
    for trial in proposal.trials:
        job = probes[trial["spec"]["stages"][-1]["data"]["recipe"]]
        assert encoder_of(trial) in [*job["inits"], *(start["id"] for start in job["starts"])]
        assert len(job["inits"]) == 1 and [start["data"]["recipe"] for start in job["starts"]] == [job["recipe"]]


def test_the_id_of_a_published_encoder_follows_from_what_decides_its_features():
    first, same = (start_of("a.pth")["id"] for _ in range(2))
    changes = [{"content": "1"}, {"architecture": SMALL}, {"module": SLICES}, {"normalise": ZSCORE}, {"part": "layer1"}]
    assert first == same and len({first, *(start_of("a.pth", **change)["id"] for change in changes)}) == 6
    slow = stage("finetune", "diagnosis", module=THREE, weights=Weights(path="a.pth").model_dump(), epochs=9)
    fast = slow | {"strategy": "frozen", "epochs": 3}
    assert encoder_of(trial_line(slow)) == encoder_of(trial_line(fast)) != ""
    assert encoder_of(trial_line(slow | {"weights": None})) == ""
    assert encoder_of(trial_line(slow, init="i" * 12)) == "i" * 12


def trial_from(folder, number: int, value: float, path: str, architecture: dict = RESNET18, **weights) -> dict:
    """The line of a finished trial from published weights, whose validation score is written."""
    asked = Weights(path=path, **weights).model_dump()
    last = stage("finetune", "diagnosis", module=THREE, weights=asked)
    line = trial_line(last, seed=number, architecture=architecture)
    scored = {"status": "ok", "reason": "", "targets": {"diagnosis": {"metrics": {"auroc": {"value": value}}}}}
    write_json(folder / "scores" / line["id"] / "scores-validation.json", scored)
    return line


def test_the_ranking_names_published_encoders_and_compares_them_with_what_came_out(tmp_path):
    reached = {"a.pth": [0.5, 0.7], "b.pth": [0.8], "c.pth": [0.9], "d.pth": [0.4]}
    trials = [
        trial_from(tmp_path, number, value, path)
        for path, values in reached.items()
        for number, value in enumerate(values)
    ]
    ids = {trial["spec"]["stages"][-1]["weights"]["path"]: encoder_of(trial) for trial in trials}
    rows = []
    for place, path in enumerate(ids):
        scored = {"split": "s", "n": {"train": 9, "validation": 3}, "scores": {"logme": float(place)}, "notes": []}
        facts = {"id": ids[path], "status": "ok", "reason": "", "architecture": "ResNet", "stage": None, "seed": None}
        splits = [scored | {"probe": {"penalty": 1.0, "validation": {"auroc": 0.7}}, "harmonised": None}]
        rows.append(facts | {"weights": path, "features": 8, "seconds": 1.0, "splits": splits})
    facts = {"id": JOB, "recipe": "default", "target": "diagnosis", "kind": "classification", "classes": ["a", "b"]}
    facts |= {"harmonise": None, "keeping": [], "encoders": rows, "note": ""}
    check_json("probe", facts)
    write_json(tmp_path / "probes" / JOB / "probe.json", facts)
    results = results_of(tmp_path, trials, {trial["id"]: {"status": "ok"} for trial in trials})
    found = transferability(results, [], "diagnosis", MEASURE)
    named = {row["name"]: row["fine_tuned"]["full"]["mean"] for row in found["encoders"]}
    assert named == pytest.approx({f"{path} (ResNet)": np.mean(values) for path, values in reached.items()})
    assert [row["weights"] for row in found["encoders"]] == list(reached) and fine_tuned(results, "diagnosis", MEASURE)
    (agreement,) = found["agreement"]
    assert agreement["n"] == 4 and agreement["tau"] == pytest.approx(0.0)


def test_names_of_published_encoders_tell_them_apart(tmp_path):
    slices = {"class_path": "SliceSet", "init_args": {"slice_encoder": RESNET18}}
    trials = [
        trial_from(tmp_path, 0, 0.5, "a.pth"), trial_from(tmp_path, 0, 0.5, "a.pth", slices, part="slice_encoder"),
        trial_from(tmp_path, 0, 0.5, "b.pth"), trial_from(tmp_path, 0, 0.5, "b.pth", minimum=0.5),
    ]  # fmt: skip
    names = published_names(trials)
    assert [names[encoder_of(trial)] for trial in trials] == [
        "a.pth (ResNet)",
        "a.pth (SliceSet, slice_encoder)",
        *(f"b.pth (ResNet) ({encoder_of(trial)[:6]})" for trial in trials[2:]),
    ]
