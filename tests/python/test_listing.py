"""`tlimb list` shows what a sweep may name, as it is."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tlimb import registry
from tlimb.architectures.listing import describe_architecture, table
from tlimb.cli import main

TESTS = Path(__file__).parent


def listed(*arguments: str) -> str:
    """What `tlimb list` prints."""
    result = CliRunner().invoke(main, ["list", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> str:
    """What `tlimb list` says on stderr."""
    result = CliRunner().invoke(main, ["list", *arguments])
    assert result.exit_code == 1
    return result.output


@pytest.fixture(scope="module")
def all_of_them() -> dict[str, dict]:
    """Name -> facts of every architecture, from one run of the command."""
    return {item["name"]: item for item in json.loads(listed("architectures", "--json"))}


def test_every_architecture_is_listed_with_kinds_parameters_blocks_and_reference(all_of_them):
    assert list(all_of_them) == list(registry.SHORT_NAMES["architecture"])
    assert not {name: item["reason"] for name, item in all_of_them.items() if "reason" in item}
    assert all(item["summary"] and item["reference"] and item["built"] for item in all_of_them.values())
    for item in all_of_them.values():
        for built in item["built"]:
            assert sum(block["parameters"] for block in built["blocks"]) == built["parameters"]


def test_the_table_has_a_line_for_each_kind_of_images(all_of_them):
    text = table(list(all_of_them.values()))
    assert "\nResNet: " in text and "\n  He et al. 2016, CVPR" in text
    assert "\n  slices   11.17 M, 512 features; conv1 bn1 layer1 layer2 layer3 layer4\n" in text
    assert "layer3.0.conv1" in table(list(all_of_them.values()), verbose=True)


def test_one_architecture_is_shown_with_arguments_and_the_names_within_blocks():
    text = listed("architectures", "ResNet", "--shape", "1,32,32", "--args", '{"depth": 10, "dims": 2}')
    assert "init_args: depth=18, dims=3" in text and "in_channels=" not in text
    assert "slices 1x32x32: 4.90 M parameters, 512 features" in text and "layer3.0.conv1" not in text
    assert "layer3.0.conv1" in listed("architectures", "ResNet", "--shape", "1,32,32", "-v")


def test_a_class_of_ones_own_is_shown_as_tlimb_sees_it(monkeypatch):
    monkeypatch.chdir(TESTS)
    monkeypatch.setattr("sys.path", [*sys.path])
    shown = listed("architectures", "own_nets.Plain", "--shape", "2,8,8,8", "--args", '{"width": 3}', "--json")
    item = json.loads(shown)[0]
    assert item["built"][0]["features"] == 3 and item["arguments"] == {"width": 6}
    assert [block["name"] for block in item["built"][0]["blocks"]] == ["stem", "norm", "last"]
    assert "give --shape" in refused("architectures", "own_nets.Plain")
    assert "cannot take images of shape (3, 20)" in refused("architectures", "own_nets.Nested", "--shape", "3,20")


@pytest.mark.parametrize("kind", ["heads", "objectives", "modules", "augment", "optimizer", "schedulers", "adapters"])
def test_each_other_kind_is_listed_by_name_with_a_line_of_its_own(kind):
    lines = listed(kind).splitlines()
    names = registry.SHORT_NAMES.get(kind) or registry.SHORT_NAMES[kind.rstrip("s")]
    assert [line.split()[0] for line in lines] == list(names)
    assert all(len(line.split()) > 2 for line in lines)


def test_what_is_typed_wrongly_is_told():
    assert "did you mean 'head'?" in refused("haeds")
    assert "unknown architecture 'ResNett'" in refused("architectures", "ResNett")
    assert "expected channels and 1 to 3 sizes" in refused("architectures", "ResNet", "--shape", "1,0,3")
    assert "is no JSON" in refused("architectures", "ResNet", "--args", "depth=5")


def test_dims_that_are_asked_for_are_the_only_ones_shown():
    assert describe_architecture("ResNet", {"dims": 1}, None)["kinds"] == ["series"]
