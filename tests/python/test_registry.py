import ast
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


@pytest.mark.parametrize(
    ("kind", "name", "arguments", "place", "said"),
    [
        ("optimizer", "AdamW", {"lr": -1}, ".lr", "AdamW: expected 0.0 <= lr, found lr -1"),
        ("optimizer", "AdamW", {"betas": [0.9]}, ".betas", "expected tuple[float | Tensor, float | Tensor], found"),
        ("optimizer", "AdamW", {"betas": [0.9, 1.0]}, ".betas", "AdamW: expected 0.0 <= betas[1] < 1.0, found"),
        ("optimizer", "SGD", {"momentum": -0.1}, ".momentum", "SGD: refused where momentum < 0.0, found momentum -0.1"),
        ("optimizer", "SGD", {"nesterov": True, "dampening": 0.5}, "", "SGD: refused where nesterov and"),
        ("optimizer", "torch.optim.RMSprop", {"alpha": -1.0}, ".alpha", "torch.optim.RMSprop: expected 0.0 <= alpha"),
        ("optimizer", "SGD", {"lr": float("nan")}, ".lr", "expected finite numbers, found nan"),
        ("scheduler", "torch.optim.lr_scheduler.LinearLR", {"start_factor": 0}, ".start_factor", "refused where"),
        ("objective", "L2SP", {"alpha": -1}, ".alpha", "L2SP: expected 0 <= alpha < inf, found alpha -1"),
        ("objective", "Huber", {"delta": 0}, ".delta", "Huber: expected 0 < delta < inf, found delta 0"),
    ],
)  # fmt: skip
def test_what_a_class_itself_refuses_is_told_from_its_source(kind, name, arguments, place, said):
    (text,) = told(kind, name, arguments)
    assert text.startswith(f"here.init_args{place}: ") and said in text


def test_what_a_class_accepts_is_not_refused():
    accepted = {"lr": 0.0, "betas": [0.9, 0.99], "weight_decay": 0, "eps": 1e-8, "amsgrad": True}
    assert told("optimizer", "AdamW", accepted) == []
    assert told("optimizer", "SGD", {"lr": 1, "momentum": 0.9, "nesterov": True}) == []


LAB = """
from torch.optim import AdamW

def least():
    return 3

class Own(AdamW):
    def __init__(self, params, rate: float, power: int = 2, low: float = 0.0, high: float = 1.0):
        if low > high or isinstance(power, str):
            raise ValueError("low")
        if power < least():
            raise ValueError("is not known before")
        power = 1
        if power < 2:
            raise ValueError("of another value than the argument's")
        super().__init__(params, lr=rate, betas=(low, 0.9))

class Inherited(Own):
    pass
"""


@pytest.mark.parametrize("name", ["Own", "Inherited"])
def test_what_a_users_class_and_those_it_is_derived_from_refuse_is_told(tmp_path, monkeypatch, name):
    (tmp_path / "lab_rates.py").write_text(LAB)
    monkeypatch.syspath_prepend(tmp_path)
    path = f"lab_rates.{name}"

    def found(**arguments) -> list[str]:
        return told("optimizer", path, arguments, trusted=("lab_rates",))

    assert found(rate=0.1) == found(rate=0.1, power=5) == []
    (high,) = found(rate=0.1, high=-1.0)
    assert high.startswith(f"here.init_args.high: {path}: refused where low > high or isinstance(power, str), found")
    assert found(rate=-1.0) == [f"here.init_args: {path}: expected 0.0 <= lr, found lr -1.0"]
    assert [str(one) for one in registry.missing("optimizer", path, {}, "here")] == [
        f"here.init_args.rate: missing; {path} has no default for it"
    ]


def test_a_refusal_that_follows_from_an_unknown_argument_is_not_told():
    def told_without(*unknown) -> list[str]:
        given = {"nesterov": True, "dampening": 0.5, "momentum": 0.9}
        return [str(one) for one in registry.refused("optimizer", "SGD", given, "here", unknown=unknown)]

    assert "found nesterov True, momentum 0.9, dampening 0.5" in told_without()[0]
    assert "found nesterov True, dampening 0.5" in told_without("momentum")[0]
    assert told_without("dampening") == told_without("nesterov") == []


def test_a_constructor_is_read_once_however_often_its_arguments_are_checked(monkeypatch):
    walked, walk = [], ast.walk
    monkeypatch.setattr(ast, "walk", lambda node: walked.append(node) or walk(node))
    assert told("optimizer", "AdamW", {"lr": 0.01}) == []
    walked.clear()
    for rate in (0.1, 0.2, 0.3):
        assert told("optimizer", "AdamW", {"lr": rate}) == []
        assert registry.missing("optimizer", "AdamW", {}, "here") == []
    assert walked == []


def test_what_follows_from_the_data_is_not_missing_from_networks_alone():
    def lacking(kind, name, **given) -> list[str]:
        return [one.where for one in registry.missing(kind, f"monai.networks.nets.{name}", given, "here")]

    assert lacking("architecture", "DenseNet121") == ["here.init_args.out_channels"]
    assert lacking("architecture", "ViT") == ["here.init_args.patch_size"]
    assert lacking("architecture", "UNet", out_channels=2, channels=[4, 8]) == ["here.init_args.strides"]
    assert "here.init_args.spatial_dims" in lacking("head", "DenseNet121", out_channels=2)


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
