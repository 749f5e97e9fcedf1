"""Classes of a user's own, as docs/own-methods.md shows them: each file is written as it stands and trained with."""

import ast
import copy
import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from training_jobs import make_people, make_store, pack_job, roles, trial_line

from tlimb import registry
from tlimb.config import Stage
from tlimb.files import digest, read_json
from tlimb.parse import parse
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "own-methods.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n# (my_lab/\w+\.py)\n(.*?)```.*?```json\n(.*?)```", PAGE, re.DOTALL)
FILES = {path: code for path, code, _ in BLOCKS}
USES = {Path(path).stem: json.loads(said) for path, _, said in BLOCKS}
OWN = ("my_lab",)
MODULE = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial", "count": 1}}
PLAIN: dict[str, pd.DataFrame] = {}
PLACES = {"auxiliary": "objective", "primary": "objective", "combine": "combination", "callbacks": "callback"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with the page's files in my_lab, which can be imported, a store, and people with a second set."""
    folder = tmp_path_factory.mktemp("lab")
    for path, code in FILES.items():
        write(folder, path, code)
    sys.path.insert(0, str(folder))
    set_up_torch(1, training=True)
    people = pd.concat([make_people("clinic", 20), make_people("lifespan", 8, seed=1)], ignore_index=True)
    make_store(folder / "store", people)
    table = pd.concat([roles(people[:20], 5, 5), people[20:].assign(role="unlabelled", times=1)], ignore_index=True)
    yield folder, table.assign(split=table["split"].iloc[0])
    sys.path.remove(str(folder))


def write(folder: Path, path: str, code: str) -> None:
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_text(code, encoding="utf-8")


def merged(first: dict, second: dict) -> dict:
    """Two documents as one; objects are merged, all else is replaced."""
    shared = [key for key in first.keys() & second.keys() if isinstance(first[key], dict)]
    return first | second | {key: merged(first[key], second[key]) for key in shared}


def stage(said: dict, target: str = "diagnosis") -> dict:
    """A stage from what a sweep says, with every default filled in."""
    data = {"labelled": {"cohort": "clinic"}, "module": MODULE}
    plain = {"name": "finetune", "targets": target, "epochs": 2, "batch_size": 5, "strategy": "scratch", "data": data}
    return parse(Stage, merged(plain, said)).model_dump()


def train(lab, out: Path, said: dict, target: str = "diagnosis", trusted=OWN) -> tuple[dict, pd.DataFrame | None]:
    """model.json and history of a training with what a sweep says of its stage."""
    folder, table = lab
    table = table if "unlabelled" in said.get("data", {}) else table[table["role"] != "unlabelled"]
    trial = trial_line(stage(said, target))
    pack_job(out / "job", table, [trial])
    finetune(out / "job", folder / "store", None, out / "models", Settings(torch.device("cpu"), trusted=trusted))
    about = out / "models" / trial["id"]
    history = about / "history.csv"
    return read_json(about / "model.json"), pd.read_csv(history) if history.exists() else None


def plain(lab, out: Path, said: dict, target: str) -> pd.DataFrame:
    """The history of the same training without the example, which is made once for all that share it."""
    both = {"targets": said["targets"]} if "targets" in said else {}
    key = json.dumps([both, target])
    if key not in PLAIN:
        _, PLAIN[key] = train(lab, out / "plain", both, target)
    return PLAIN[key]


def found(said, place: str = "") -> list[tuple[str, dict]]:
    """Place and class of every class of the lab that a sweep names."""
    if isinstance(said, list):
        return [item for each in said for item in found(each, place)]
    if not isinstance(said, dict):
        return []
    own = [(PLACES.get(place, place), said)] if said.get("class_path", "").startswith("my_lab.") else []
    return own + [item for key, value in said.items() for item in found(value, key)]


@pytest.mark.parametrize("path", FILES)
def test_each_example_has_fewer_than_20_lines_and_a_class_that_the_page_uses(path):
    code = FILES[path]
    assert len([line for line in f"# {path}\n{code}".splitlines() if line.strip()]) < 20
    classes = [node.name for node in ast.parse(code).body if isinstance(node, ast.ClassDef)]
    named = {spec["class_path"] for _, spec in found(USES[Path(path).stem])}
    assert named == {f"my_lab.{Path(path).stem}.{classes[0]}"}


@pytest.mark.parametrize("name", USES)
def test_each_example_is_checked_by_its_source_and_needs_trust(lab, name):
    for kind, spec in found(USES[name]):
        arguments = spec.get("init_args", {})
        assert not registry.check(kind, spec["class_path"], arguments, "here", OWN)
        (problem,) = registry.check(kind, spec["class_path"], arguments, "here")
        assert "module 'my_lab' is not trusted" in problem.message
        if "def __init__" in FILES[f"my_lab/{name}.py"]:
            (problem,) = registry.check(kind, spec["class_path"], arguments | {"nothing": 1}, "here", OWN)
            assert problem.where == "here.init_args.nothing"


def test_the_page_lists_arguments_that_are_filled_in():
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \|", PAGE.partition("## What is filled in")[2], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == registry.GIVEN - {"self", "module"}


@pytest.mark.parametrize("name", USES)
def test_each_example_trains_and_makes_a_difference(lab, tmp_path, name):
    said = copy.deepcopy(USES[name])
    target = "age" if name == "tolerant" else "diagnosis"
    about, history = train(lab, tmp_path / "own", said, target)
    assert about["status"] == "ok", about["reason"]
    columns = ["train_loss", "validation_loss", "lr"]
    assert len(history) == 2 and not history[columns].equals(plain(lab, tmp_path, said, target)[columns])


def test_a_term_of_ones_own_is_in_the_history_and_its_ramp_begins_at_nothing(lab, tmp_path):
    _, history = train(lab, tmp_path, USES["entropy"])
    assert 0 < history["train_entropy"][0] < history["train_entropy"][1] < 0.1
    assert history["train_entropy"][1] < 0.1 * torch.tensor(2.0).log()


def test_the_tolerated_error_is_in_units_of_the_label(lab):
    from my_lab.tolerant import Tolerant

    from tlimb.data.targets import Target

    loss = Tolerant(Target("age", "regression", mean=50.0, sd=20.0), free=5.0)
    outputs = torch.tensor([0.0, 0.25, 1.0, -1.0])
    torch.testing.assert_close(loss(outputs, torch.zeros(4)), torch.tensor([0.0, 0.0, 0.75, 0.75]))


def test_the_optimizer_takes_the_steps_of_its_paper(lab):
    from my_lab.lion import Lion

    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer, mean, value = Lion([weight], lr=0.1, weight_decay=0.5), torch.zeros(2), weight.detach().clone()
    for gradient in torch.tensor([[1.0, -3.0], [-0.05, 2.0], [0.0, -1.0]]):
        weight.grad = gradient
        optimizer.step(lambda: None)
        value = value - 0.1 * (torch.sign(0.9 * mean + 0.1 * gradient) + 0.5 * value)
        mean = 0.99 * mean + 0.01 * gradient
        torch.testing.assert_close(weight.detach(), value)


def test_the_scheduler_is_given_the_epochs_of_the_stage(lab, tmp_path):
    _, history = train(lab, tmp_path, USES["polynomial"])
    assert history["lr"].tolist() == pytest.approx([0.001, 0.001 * 0.5**2])


TERM = """
from tlimb.objectives.term import Term


class Own(Term):
    def forward(self, step):
        return {value}
"""


@pytest.mark.parametrize(
    "value, reason",
    [
        ("step.nothing", "no attribute 'nothing'"),
        ("1 / 0", "division by zero"),
        ("step.features", "Own: expected a scalar tensor, found a tensor of shape (5, 64)"),
        ("None", "Own: expected a scalar tensor, found None"),
        ("step.features.sum() * float('nan')", "own"),
    ],
)
def test_a_term_that_goes_wrong_fails_its_trial_and_the_reason_names_it(lab, tmp_path, value, reason):
    name = f"wrong_{digest(value)}"
    write(lab[0], f"my_lab/{name}.py", TERM.format(value=value))
    said = {"objective": {"auxiliary": [{"class_path": f"my_lab.{name}.Own"}]}}
    about, _ = train(lab, tmp_path, said)
    assert about["status"] == "failed" and reason in about["reason"]


def test_a_class_that_nobody_trusts_is_not_imported(lab, tmp_path):
    write(lab[0], "my_lab/never.py", "raise SystemExit('imported')\n\n\nclass Never:\n    pass\n")
    about, _ = train(lab, tmp_path, {"callbacks": [{"class_path": "my_lab.never.Never"}]}, trusted=())
    assert "my_lab.never" not in sys.modules and "not trusted" in about["reason"]
