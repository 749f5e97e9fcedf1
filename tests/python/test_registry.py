import subprocess
import sys

import pytest

from tlimb import registry
from tlimb.errors import InputError


def told(kind, class_path, init_args=None, trusted=()) -> list[str]:
    return [str(problem) for problem in registry.check(kind, class_path, init_args or {}, "here", trusted)]


def test_a_short_name_and_its_import_path_are_the_same_class():
    assert registry.load("optimizer", "AdamW") is registry.load("optimizer", "torch.optim.adamw.AdamW")


@pytest.mark.parametrize("kind", registry.SHORT_NAMES)
def test_every_short_name_stands_for_a_class_that_is_there(kind):
    for name in registry.SHORT_NAMES[kind]:
        assert told(kind, name) == []
        assert isinstance(registry.load(kind, name), type)


def test_an_unknown_name_is_told_with_the_nearest():
    assert told("architecture", "ResNett") == [
        "here.class_path: unknown architecture 'ResNett' (did you mean 'ResNet'?)"
    ]


def test_an_argument_that_the_class_does_not_take_is_told_with_the_nearest():
    assert told("optimizer", "AdamW", {"weigth_decay": 0.1}) == [
        "here.init_args.weigth_decay: AdamW takes no such argument (did you mean 'weight_decay'?)"
    ]


def test_an_argument_of_the_wrong_type_is_told_with_the_right_one():
    assert told("optimizer", "AdamW", {"lr": "fast"}) == ["here.init_args.lr: expected float | Tensor, found 'fast'"]
    assert told("scheduler", "StepLR", {"step_size": 3}) == []


def test_a_module_outside_the_trusted_ones_is_refused_unless_named():
    assert "not trusted" in told("objective", "json.decoder.JSONDecoder")[0]
    assert told("objective", "json.decoder.JSONDecoder", trusted=("json",)) == []
    with pytest.raises(InputError):
        registry.load("objective", "json.decoder.JSONDecoder")


def test_a_source_that_is_no_python_is_told_with_its_file_and_line(tmp_path, monkeypatch):
    (tmp_path / "lab_slips.py").write_text("class Net:\n    pass\n\ndef f(:\n")
    (tmp_path / "lab_through.py").write_text("import lab_slips\n\nclass Net:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    trusted = ("lab_slips", "lab_through")
    place = f"here.class_path: {tmp_path / 'lab_slips.py'}, line 4: "
    assert [text.startswith(place) for text in told("architecture", "lab_slips.Net", trusted=trusted)] == [True]
    with pytest.raises(InputError, match="lab_slips.py, line 4"):
        registry.load("architecture", "lab_slips.Net", trusted)
    with pytest.raises(InputError, match=r"cannot be imported: .*lab_slips.py, line 4"):
        registry.load("architecture", "lab_through.Net", trusted)


def test_checking_torch_classes_imports_no_torch():
    code = (
        "import sys; from tlimb import registry;"
        "assert not registry.check('optimizer', 'SGD', {'lr': 0.1}, 'x'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_class_may_be_named_by_any_module_that_imports_it():
    for path in ("monai.networks.nets.DenseNet121", "monai.networks.nets.densenet.DenseNet121", "torch.optim.Adam"):
        assert told("architecture", path) == []
    assert "no class monai.networks.nets.DenseNet1210" in told("architecture", "monai.networks.nets.DenseNet1210")[0]
    assert "lrr" in told("optimizer", "torch.optim.Adam", {"lrr": 1})[0]
