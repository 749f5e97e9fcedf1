import numpy as np
import pandas as pd
import pytest
from contracts import check_json, check_table
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.errors import InputError
from tlimb.files import read_json, write_json
from tlimb.store import Store, write_shard

SHAPE = (5, 6, 4)


def header(chunk, n, **changes):
    recipe = {"spacing": 2.0, "registration": "affine", "mask": "template", "intensity": "zscore"} | changes
    print_ = "0123456789ab" if not changes else "ffffffffffff"
    return {"chunk": chunk, "fingerprint": print_, "n": n, "shape": list(SHAPE), "spacing": 2.0,
            "affine": np.diag([2.0, 2, 2, 1]).tolist(), "recipe": recipe}  # fmt: skip


def row(scan, place, reason=""):
    numbers = dict.fromkeys(("mask_overlap", "metric", "snr", "displacement"), None if reason else 0.5)
    place = {"scan_id": scan, "row": place, "status": "failed" if reason else "ok", "reason": reason}
    return {**place, "digest": "0" * 16, **numbers, "warnings": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three shards of 4, 3 and 0 good scans, the second with a failed one between, the third with nothing else."""
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    write_shard(folder, "0", rng.normal(size=(4, *SHAPE)), [row(f"c/a{i}/1/T1w", i) for i in range(4)], header("0", 4))
    index = [row("c/b0/1/T1w", 0), row("c/b1/1/T1w", -1, "not 3D"), row("c/b2/1/T1w", 1), row("c/b3/1/T1w", 2)]
    write_shard(folder, "1", rng.normal(size=(3, *SHAPE)), index, header("1", 3))
    write_shard(folder, "2", np.zeros((0, *SHAPE)), [row("c/c0/1/T1w", -1, "empty")], header("2", 0))
    return folder


GOOD = [f"c/a{i}/1/T1w" for i in range(4)] + [f"c/b{i}/1/T1w" for i in (0, 2, 3)]


def whole(folder):
    return np.concatenate([np.load(folder / f"shard-{chunk}.npy") for chunk in "01"])


def test_a_shard_is_written_as_the_contract_says(folder):
    for chunk in "012":
        check_table("shard", pd.read_parquet(folder / f"shard-{chunk}.parquet"))
        check_json("shard", read_json(folder / f"shard-{chunk}.json"))


def test_the_same_shard_gives_the_same_bytes(folder, tmp_path):
    index = pd.read_parquet(folder / "shard-0.parquet").to_dict("records")
    write_shard(tmp_path, "0", np.load(folder / "shard-0.npy"), index, read_json(folder / "shard-0.json"))
    for name in ("shard-0.npy", "shard-0.parquet", "shard-0.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_store_knows_its_scans(folder):
    store = Store(folder)
    assert (store.shape, store.spacing, store.fingerprint) == (SHAPE, 2.0, "0123456789ab")
    assert list(store.index["scan_id"]) == sorted([*GOOD, "c/b1/1/T1w", "c/c0/1/T1w"])
    assert dict(zip(store.index["scan_id"], store.index["chunk"]))["c/b2/1/T1w"] == "1"
    assert len(Store(folder, ["1"]).index) == 4


bounds = [st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted) for size in SHAPE]


@settings(max_examples=60, deadline=None)
@given(picks=st.lists(st.integers(0, len(GOOD) - 1), max_size=12), box=st.none() | st.tuples(*bounds))
def test_gathering_is_indexing_the_whole(folder, picks, box):
    box = box and tuple(slice(*part) for part in box)
    expected = whole(folder)[(picks, *box)] if box else whole(folder)[picks]
    found = Store(folder).gather([GOOD[pick] for pick in picks], box)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, expected)


def test_scans_that_are_not_there_are_named_with_the_reason(folder):
    with pytest.raises(InputError) as error:
        Store(folder).gather(["c/a0/1/T1w", "c/b1/1/T1w", "c/a9/1/T1w", "c/a9/1/T1w"])
    text = str(error.value)
    assert len(error.value.problems) == 2
    assert "c/b1/1/T1w: failed in preprocessing: not 3D" in text and "did you mean" in text


def test_shards_of_different_recipes_are_refused_and_the_difference_told(folder, tmp_path):
    write_shard(tmp_path, "0", np.zeros((0, *SHAPE)), [], header("0", 0))
    write_shard(tmp_path, "1", np.zeros((0, *SHAPE)), [], header("1", 0, registration="rigid"))
    with pytest.raises(InputError, match="0123456789ab.*ffffffffffff.*registration affine and rigid"):
        Store(tmp_path)
    assert Store(tmp_path, ["1"]).fingerprint == "ffffffffffff"


def test_missing_files_are_all_named(folder, tmp_path):
    with pytest.raises(InputError, match="holds no shard"):
        Store(tmp_path)
    write_json(tmp_path / "shard-0.json", header("0", 1))
    with pytest.raises(InputError) as error:
        Store(tmp_path, ["0", "7"])
    assert len(error.value.problems) == 5


def test_an_array_that_is_not_what_the_header_says_is_refused(tmp_path):
    write_shard(tmp_path, "0", np.zeros((1, *SHAPE)), [row("c/a/1/T1w", 0)], header("0", 1))
    np.save(tmp_path / "shard-0.npy", np.zeros((1, 2, 2, 2), np.float32))
    with pytest.raises(InputError, match="float16"):
        Store(tmp_path).gather(["c/a/1/T1w"])


def test_a_scan_that_stands_in_two_shards_is_refused_by_name(tmp_path):
    for chunk in ("all", "0"):
        write_shard(tmp_path, chunk, np.zeros((1, *SHAPE)), [row("c/a/1/T1w", 0)], header(chunk, 1))
    with pytest.raises(InputError, match="scan c/a/1/T1w: stands in shards 0 and all"):
        Store(tmp_path).index
