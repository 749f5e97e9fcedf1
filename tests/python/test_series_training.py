"""Time series from the demo's cohort to scores: shards, windows, one-dimensional networks."""

import numpy as np
import pandas as pd
import pytest
import torch
from series_scans import recipe
from training_jobs import pack_job, pretrain_job, roles, stage, trial_line

from tlimb.architectures.resnet import ResNet
from tlimb.data.series import SeriesDataModule
from tlimb.demo.series import person_signals, write_hcp_series, write_series_cohort
from tlimb.errors import InputError
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.predict import evaluate
from tlimb.files import read_json
from tlimb.preprocess.atlas import load_atlas
from tlimb.preprocess.chunk import preprocess_chunk
from tlimb.preprocess.series import agreed_regions, cleaned, preprocess_series, series_header, series_problem
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.pretrain import pretrain
from tlimb.scenarios.results import Settings
from tlimb.store import Store, columns, write_shard

CPU = torch.device("cpu")
RESNET_1D = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 1, "width": 0.25}}
DEMO = {"timepoints": 72, "detrend": True, "standardise": "zscore", "confounds": ["csf"], "tr": 2.0}
WINDOWS = {"class_path": "SeriesDataModule", "init_args": {"window": 48}}
SCHEDULE = {"module": WINDOWS, "optimizer": {"class_path": "AdamW", "init_args": {"lr": 3e-3}}, "epochs": 10}
NUMBERS = [name for name, kind in columns().items() if kind != "string"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A samplesheet of 24 scans, half of them images, as a table with scan_id and absolute paths."""
    folder = tmp_path_factory.mktemp("series")
    table = pd.read_csv(write_series_cohort(folder, 24))
    table["scan_id"] = table["cohort"] + "/" + table["subject"] + "/1/bold"
    table["person"] = table["cohort"] + "/" + table["subject"]
    return table.assign(image=[folder / p for p in table["image"]], confounds=[folder / p for p in table["confounds"]])


class TestDataModule:
    def test_series_become_channels_of_regions(self):
        boxes = np.arange(2 * 6 * 3, dtype=np.float16).reshape(2, 6, 3)
        assert np.array_equal(SeriesDataModule().arrange(boxes), boxes.transpose(0, 2, 1))
        assert np.array_equal(SeriesDataModule(regions=[2, 0]).arrange(boxes), boxes.transpose(0, 2, 1)[:, [2, 0]])
        assert SeriesDataModule(window=4, regions=[1]).input_shape((6, 3)) == (1, 4)
        assert SeriesDataModule().input_shape((6, 3)) == (3, 6)

    def test_windows_move_in_training_alone_and_by_torchs_generator(self):
        images = torch.arange(20.0).repeat(64, 2, 1) + 100 * torch.arange(64.0)[:, None, None]
        module = SeriesDataModule(window=5)
        assert torch.equal(module.present(images, False), images[:, :, 7:12])
        torch.manual_seed(3)
        first = module.present(images, True)
        torch.manual_seed(3)
        assert torch.equal(first, module.present(images, True))
        assert not torch.equal(first, module.present(images, True))
        starts = (first[:, 0, 0] - images[:, 0, 0]).long()
        assert set(starts.tolist()) == set(range(16))
        assert all(torch.equal(window, image[:, s : s + 5]) for window, image, s in zip(first, images, starts))

    def test_nothing_moves_where_the_window_is_the_whole(self):
        images = torch.randn(3, 2, 20)
        assert not SeriesDataModule().augments() and SeriesDataModule(window=5).augments()
        assert torch.equal(SeriesDataModule(window=20).present(images, True), images)

    def test_what_does_not_fit_is_refused(self):
        for arguments, message in (
            ({"window": 0}, "at least 1 time point"),
            ({"regions": [1, 1]}, "different places"),
            ({"regions": []}, "at least one"),
        ):
            with pytest.raises(InputError, match=message):
                SeriesDataModule(**arguments)
        with pytest.raises(InputError) as raised:
            SeriesDataModule(window=30, regions=[0, 5]).box((20, 4))
        assert "a window of 30 time points does not fit series of 20" in str(raised.value)
        assert "no region at 5" in str(raised.value)
        with pytest.raises(InputError, match="the store holds 3D images"):
            SeriesDataModule().box((20, 4, 4))


class TestNetwork:
    def test_a_one_dimensional_resnet_gives_what_monai_gives_with_the_same_weights(self):
        from monai.networks.nets.resnet import ResNet as Peer

        own = ResNet(depth=18, dims=1, width=0.25, in_channels=5).eval()
        shape = {"spatial_dims": 1, "n_input_channels": 5, "conv1_t_stride": 2, "widen_factor": 0.25}
        shape |= {"feed_forward": False, "bias_downsample": False}
        peer = Peer("basic", [2, 2, 2, 2], [64, 128, 256, 512], **shape).eval()
        peer.load_state_dict(own.state_dict())
        series = torch.randn(2, 5, 100)
        torch.testing.assert_close(own(series), peer(series))

    def test_its_parameters_are_those_of_the_papers_layers_along_one_axis(self):
        count = 7 * 32 * 64 + 2 * 64
        for inputs, planes in ((64, 64), (64, 128), (128, 256), (256, 512)):
            count += 3 * inputs * planes + 3 * 3 * planes * planes + 4 * 2 * planes
            count += inputs * planes + 2 * planes if inputs != planes else 0
        assert sum(parameter.numel() for parameter in ResNet(depth=18, dims=1, in_channels=32).parameters()) == count

    @pytest.mark.parametrize("points", [8, 33, 60, 1200])
    def test_it_takes_series_of_any_length(self, points):
        assert ResNet(depth=10, dims=1, width=0.125, in_channels=3)(torch.randn(2, 3, points)).shape == (2, 64)


def prepared(cohort, folder, recipe, threads=1):
    """The cohort's chunk staged as the pipeline does and preprocessed."""
    scans = []
    for number, row in enumerate(cohort.itertuples(), start=1):
        for kind, path in (("images", row.image), ("confounds", row.confounds)):
            (folder / kind / str(number)).mkdir(parents=True)
            (folder / kind / str(number) / path.name).symlink_to(path)
        paths = {"image": str(row.image), "mask": None, "confounds": str(row.confounds)}
        scans.append({"scan_id": row.scan_id, "modality": "bold", **paths})
    chunk = {"chunk": "all", "scans": scans}
    return preprocess_chunk(chunk, recipe, folder / "images", confounds=folder / "confounds", threads=threads)


class TestCohort:
    def test_the_demo_is_the_same_for_a_seed_and_grows_without_moving(self, tmp_path):
        small, large = write_series_cohort(tmp_path / "a", 4), write_series_cohort(tmp_path / "b", 6)
        files = [path.relative_to(small.parent) for path in small.parent.rglob("*sub-*") if path.is_file()]
        assert len(files) == 8
        assert all((small.parent / path).read_bytes() == (large.parent / path).read_bytes() for path in files)
        other = write_series_cohort(tmp_path / "c", 4, seed=1)
        assert not any((small.parent / path).read_bytes() == (other.parent / path).read_bytes() for path in files)

    def test_patients_fronts_beat_faster_and_less_together(self):
        def front(diagnosis, number):
            person = {"cohort": "clinic", "number": number, "age": 50.0, "diagnosis": diagnosis}
            signals = person_signals(person, 0)[0]
            return signals[:, ["-4-" in name for name in load_atlas("blocks").names]]

        def fast(signals):
            power = np.abs(np.fft.rfft(signals, axis=0)) ** 2
            return power[np.fft.rfftfreq(len(signals), 2.0) > 0.07].sum() / power[1:].sum()

        groups = {kind: [front(kind, number) for number in range(10)] for kind in ("control", "patient")}
        assert min(map(fast, groups["patient"])) > max(map(fast, groups["control"]))
        together = {kind: np.mean([np.corrcoef(s.T).mean() for s in group]) for kind, group in groups.items()}
        assert together["control"] > together["patient"] + 0.2

    def test_hcps_text_files_are_read(self, tmp_path):
        nodes = write_hcp_series(tmp_path, 2)
        files = sorted(nodes.glob("*.txt"))
        assert [path.name for path in files] == ["100206.txt", "100307.txt"]
        assert all(series_problem(str(path)) is None for path in files)
        wanted, regions = recipe(tr=0.72, standardise="zscore"), agreed_regions(files, None)
        array, quality = preprocess_series(files[0], None, wanted, None, regions)
        assert array.shape == (40, 32) and quality["snr"] is None

    def test_a_chunk_becomes_a_shard_whatever_the_threads_and_one_bad_scan_costs_no_other(self, cohort, tmp_path):
        few = cohort.groupby("cohort").head(2).reset_index(drop=True)
        wanted = recipe(**DEMO | {"band_pass": [0.02, 0.2]})
        first = prepared(few, tmp_path / "one", wanted)
        second = prepared(few, tmp_path / "two", wanted, threads=2)
        assert np.array_equal(first[0], second[0]) and first[1] == second[1] and first[2] == second[2]
        assert first[0].shape == (4, 72, 32) and first[2]["tr"] == 2.0
        assert first[2]["regions"] == list(load_atlas("blocks").names)
        (tmp_path / "bad.tsv").write_text("a\tb\n1\t2\n")
        worse = few.assign(image=[tmp_path / "bad.tsv", *few["image"][1:]])
        third = prepared(worse, tmp_path / "three", wanted)
        assert [row["status"] for row in third[1]] == ["failed", "ok", "ok", "ok"]
        assert "holds 1 time points" in third[1][0]["reason"]
        assert np.array_equal(third[0], first[0][1:])

    def test_tables_prepare_a_network_for_images_and_prediction_sees_what_validation_saw(self, cohort, tmp_path):
        set_up_torch(1, training=True)
        write_shard(tmp_path / "store", "all", *prepared(cohort, tmp_path / "staged", recipe(**DEMO), threads=2))
        assert Store(tmp_path / "store").shape == (72, 32)
        parcels, clinic = (part.reset_index(drop=True) for _, part in sorted(cohort.groupby("cohort"), reverse=True))
        first, tuned = stage("pretrain", "age", **SCHEDULE), stage("finetune", "diagnosis", **SCHEDULE)
        line = pretrain_job(tmp_path / "pretrain", roles(parcels, 4, 4), first, RESNET_1D)
        encoder = pretrain(tmp_path / "pretrain", tmp_path / "store", None, tmp_path / "encoders", Settings(CPU))
        trial = trial_line(tuned, init=line["id"], architecture=RESNET_1D)
        about, scores = fine_tuned(tmp_path, roles(clinic, 4, 4), trial, encoder.parent)
        assert about["status"] == "ok" and about["input_shape"] == [32, 48]
        history = pd.read_csv(tmp_path / "models" / trial["id"] / "history.csv")
        measured = scores["validation"]["targets"]["diagnosis"]["metrics"]["balanced_accuracy"]["value"]
        assert history.loc[about["best_epoch"] - 1, "validation_balanced_accuracy"] == pytest.approx(measured)

    def test_a_network_learns_the_planted_rhythms(self, tmp_path):
        set_up_torch(1, training=True)
        names, scores = load_atlas("blocks").names, recipe(**DEMO)
        kinds = np.array(["control", "patient"] * 60)
        rng = np.random.default_rng(0)
        people = [
            {"cohort": "clinic", "number": number, "age": rng.uniform(20, 80), "diagnosis": kind}
            for number, kind in enumerate(kinds)
        ]
        series = np.stack([cleaned(person_signals(person, 0)[0], scores, 2.0, None)[0] for person in people])
        scans = [f"clinic/sub-{number:03d}/1/bold" for number in range(len(people))]
        facts = dict.fromkeys(columns(), "") | {"status": "ok"} | dict.fromkeys(NUMBERS)
        index = [facts | {"scan_id": scan, "row": row} for row, scan in enumerate(scans)]
        header = {"chunk": "all", "fingerprint": "0" * 12, "n": len(people), "recipe": scores.model_dump()}
        write_shard(tmp_path / "store", "all", series.astype("float16"), index, header | series_header(scores, names))
        table = roles(pd.DataFrame({"scan_id": scans, "person": scans, "diagnosis": kinds}), 20, 30)
        trial = trial_line(stage("finetune", "diagnosis", strategy="scratch", **SCHEDULE), architecture=RESNET_1D)
        _, scores = fine_tuned(tmp_path, table, trial, tmp_path)
        assert scores["test"]["targets"]["diagnosis"]["metrics"]["auroc"]["value"] > 0.8


def fine_tuned(folder, table, trial, encoders) -> tuple[dict, dict]:
    """model.json of a trial trained on the store in `folder`, and its scores by part."""
    pack_job(folder / "job", table, [trial])
    finetune(folder / "job", folder / "store", encoders, folder / "models", Settings(CPU))
    evaluate(folder / "job", folder / "store", folder / "models", folder / "scores", Evaluate(bootstrap=100), CPU)
    own = folder / "scores" / trial["id"]
    parts = {part: read_json(own / f"scores-{part}.json") for part in ("validation", "test")}
    return read_json(folder / "models" / trial["id"] / "model.json"), parts
