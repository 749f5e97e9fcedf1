from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from contracts import check_json, check_table
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.errors import InputError
from tlimb.files import read_json, write_json
from tlimb.config import Recipe
from tlimb.store import Store, columns, write_shard

SHAPE = (5, 6, 4)


def header(chunk, n, **changes):
    recipe = Recipe().model_dump() | changes
    print_ = "0123456789ab" if not changes else "ffffffffffff"
    return {"chunk": chunk, "fingerprint": print_, "n": n, "shape": list(SHAPE), "spacing": 2.0,
            "affine": np.diag([2.0, 2, 2, 1]).tolist(), "recipe": recipe}  # fmt: skip


def row(scan, place, reason=""):
    kinds = {"string": "", "int64": place, "float64": None if reason else 1.0}
    facts = {"scan_id": scan, "status": "failed" if reason else "ok", "reason": reason, "digest": "0" * 16, "content": "1" * 16}
    return {name: kinds[kind] for name, kind in columns().items()} | facts


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


def test_shards_of_series_with_other_regions_are_refused(tmp_path):
    for chunk, regions in (("0", 3), ("1", 4)):
        series = header(chunk, 1) | {"shape": [8, regions], "spacing": None, "affine": None}
        write_shard(tmp_path, chunk, np.zeros((1, 8, regions)), [row(f"c/{chunk}/1/bold", 0)], series)
    with pytest.raises(InputError, match="different shapes: 8x3 in shard 0 and 8x4 in shard 1"):
        Store(tmp_path)
    assert Store(tmp_path, ["1"]).gather(["c/1/1/bold"]).shape == (1, 8, 4)
    named = header("2", 1) | {"shape": [8, 4], "regions": ["a", "b", "c", "d"]}
    write_shard(tmp_path, "2", np.zeros((1, 8, 4)), [row("c/2/1/bold", 0)], named)
    write_shard(tmp_path, "3", np.zeros((1, 8, 4)), [row("c/3/1/bold", 0)], named | {"chunk": "3", "regions": ["b", "a", "c", "d"]})
    with pytest.raises(InputError, match="shards 2 and 3 have other regions or another order"):
        Store(tmp_path, ["2", "3"])


def test_a_truncated_array_is_told_by_its_name(tmp_path):
    write_shard(tmp_path, "0", np.zeros((1, *SHAPE)), [row("c/a/1/T1w", 0)], header("0", 1))
    path = tmp_path / "shard-0.npy"
    for size in (path.stat().st_size - 2, 40, 3):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(InputError, match="shard-0.npy: cannot be read as an npy file"):
            Store(tmp_path).gather(["c/a/1/T1w"])


def test_an_array_shorter_than_its_index_and_a_damaged_index_are_told_by_name(tmp_path):
    write_shard(tmp_path, "0", np.zeros((1, *SHAPE)), [row("c/a/1/T1w", 0), row("c/b/1/T1w", 1)], header("0", 2))
    with pytest.raises(InputError, match=r"shard-0.npy: expected \(2, 5, 6, 4\) float16, found \(1, 5, 6, 4\)"):
        Store(tmp_path).gather(["c/b/1/T1w"])
    index = tmp_path / "shard-0.parquet"
    index.write_bytes(index.read_bytes()[:-9])
    with pytest.raises(InputError, match="an index cannot be read.*shard-0.parquet"):
        Store(tmp_path).gather(["c/b/1/T1w"])


def own_memory() -> int:
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
def test_reading_a_hundred_megabytes_takes_memory_for_a_batch(tmp_path):
    shape = (80, 96, 80)
    voxels = np.broadcast_to(np.float16(1), (88, *shape))
    index = [row(f"c/{i:03d}/1/T1w", i) for i in range(88)]
    write_shard(tmp_path, "0", voxels, index, header("0", 88) | {"shape": list(shape)})
    store = Store(tmp_path)
    scans = store.index["scan_id"].tolist()
    before, most = own_memory(), 0
    for start in range(0, 88, 8):
        assert store.gather(scans[start : start + 8]).all()
        most = max(most, own_memory())
    assert most - before < 40e6


def test_an_index_of_thousands_of_scans_is_read_once_and_in_order(tmp_path):
    for chunk in range(40):
        index = [row(f"c/{chunk + 40 * i:05d}/1/T1w", i) for i in range(50)]
        write_shard(tmp_path, str(chunk), np.zeros((0, *SHAPE)), index, header(str(chunk), 50))
    found = Store(tmp_path).index
    assert found["scan_id"].tolist() == sorted(found["scan_id"]) and len(found) == 2000
    assert (found["chunk"].astype(int) == found["scan_id"].str[2:7].astype(int) % 40).all()
