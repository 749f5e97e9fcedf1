"""What is kept of trainings: written whole, read back as it was, never in the way."""

import math
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tlimb.files import write_json
from tlimb.state import Kept, read_state, write_state

SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5)
NESTED = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(NESTED)
def test_any_nested_state_comes_back_with_its_types(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("state") / "s.safetensors"
    write_state(path, {"value": value, "tensor": torch.ones(2)})
    back = read_state(path)["value"]
    assert back == value and type(back) is type(value)


def test_an_optimisers_state_comes_back_bit_for_bit(tmp_path):
    weight = torch.nn.Parameter(torch.randn(3, 2))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    write_state(tmp_path / "s.safetensors", {"optimizer": optimizer.state_dict(), "worst": math.inf})
    back = read_state(tmp_path / "s.safetensors")
    assert back["worst"] == math.inf
    assert back["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert torch.equal(back["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_what_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(TypeError, match="cannot hold a set"):
        write_state(tmp_path / "s.safetensors", {"a": {1, 2}})


def test_without_a_folder_nothing_is_kept_and_nothing_fails(tmp_path):
    kept = Kept(None, "trial", {})
    assert kept.finished() is None and kept.load() is None and not kept.due()
    kept.keep(tmp_path)


def test_a_finished_result_takes_the_place_of_the_state_before_it(tmp_path):
    kept = Kept(tmp_path / "states", "trial", {"code": "a"}, seconds=0)
    assert kept.due()
    kept.save({"epoch": 1})
    assert kept.load() == {"epoch": 1}
    write_json(tmp_path / "result" / "model.json", {"id": "trial"})
    kept.keep(tmp_path / "result")
    again = Kept(tmp_path / "states", "trial", {"code": "a"})
    assert again.load() is None
    assert (again.finished() / "model.json").read_text() == (tmp_path / "result" / "model.json").read_text()


def test_another_key_finds_nothing(tmp_path):
    Kept(tmp_path, "trial", {"code": "a"}, seconds=0).save({"epoch": 1})
    assert Kept(tmp_path, "trial", {"code": "b"}).load() is None


def test_a_damaged_state_is_passed_over_aloud(tmp_path, capsys):
    kept = Kept(tmp_path, "trial", {}, seconds=0)
    kept.save({"epoch": 1})
    (path,) = tmp_path.rglob("training.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    assert kept.load() is None
    assert "damaged" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_once_and_no_more(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    kept = Kept(tmp_path / "file" / "states", "trial", {})
    assert "cannot be written" in capsys.readouterr().err
    assert kept.load() is None and not kept.due()


def test_several_writers_leave_one_whole_result(tmp_path):
    for number in range(8):
        write_json(tmp_path / f"r{number}" / "model.json", {"number": number})
        (tmp_path / f"r{number}" / "other").write_text(str(number))
    work = [
        threading.Thread(target=Kept(tmp_path / "states", "trial", {}).keep, args=[tmp_path / f"r{number}"])
        for number in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    result = Kept(tmp_path / "states", "trial", {}).finished()
    assert f'"number": {(result / "other").read_text()}' in (result / "model.json").read_text()
    assert [path.name for path in result.parent.iterdir()] == ["result"]
