import json
from pathlib import Path

import jsonschema
import pytest

from tlimb.config import PIPELINE_KEYS, Sweep, read_sweep, sweep_schema
from tlimb.errors import InputError
from tlimb.files import read_json

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "assets" / "schemas" / "sweep.schema.json"


def problems_of(document) -> str:
    with pytest.raises(InputError) as caught:
        read_sweep(document)
    return str(caught.value)


def test_the_committed_schema_is_the_one_that_the_models_generate():
    assert json.loads(SCHEMA.read_text()) == sweep_schema()


def test_the_pipelines_parameters_are_known_here_by_the_same_names():
    groups = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"]
    assert set(groups["run"]["properties"]) == PIPELINE_KEYS
    assert set(groups["sweep"]["properties"]) == set(Sweep.model_fields)


def test_a_sweep_with_its_defaults_filled_in_reads_back_as_itself(document):
    sweep = read_sweep(document)
    assert read_sweep(sweep.model_dump()) == sweep
    jsonschema.validate(json.loads(sweep.model_dump_json()), sweep_schema())


def test_every_problem_is_named_at_once_with_its_json_path_and_the_nearest_name(document):
    document["outdri"] = "x"
    document["recipes"] = {"default": {"spacing": "2", "registraton": "affine"}}
    document["stages"][0]["epochs"] = "10"
    document["stages"][1]["strategy"] = "frozn"
    document["stages"][1]["data"]["labelled"]["m"] = 3
    text = problems_of(document)
    assert text.startswith("6 problems")
    assert "outdri: unknown key (did you mean 'outdir'?)" in text
    assert "recipes.default.registraton: unknown key (did you mean 'registration'?)" in text
    assert "recipes.default.spacing: expected a valid number, found '2'" in text
    assert "stages[0].epochs: expected a valid integer, found '10'" in text
    assert "stages[1].strategy: expected 'scratch', 'direct', 'frozen' or 'full', found 'frozn' (did you mean 'frozen'?)" in text
    assert "stages[1].data.labelled.m: unknown key" in text


def test_a_number_is_never_guessed_from_text_nor_truth_from_a_number(document):
    document["stages"][0]["batch_size"] = True
    document["stages"][0]["disjoint"] = 1
    text = problems_of(document)
    assert "stages[0].batch_size" in text and "stages[0].disjoint" in text


def test_pipeline_parameters_beside_the_sweep_are_passed_over(document):
    assert read_sweep({**document, "trials_per_task": 3}) == read_sweep(document)


def test_stage_names_must_differ(document):
    document["stages"][1]["name"] = "pretrain"
    assert "repeated" in problems_of(document)


def test_a_document_that_is_no_object_says_what_it_is():
    assert "expected a JSON object, found list" in problems_of([])


def test_unreadable_json_names_file_line_and_column(tmp_path):
    path = tmp_path / "sweep.json"
    path.write_text('{\n  "input": "a.csv",\n  oops\n}')
    with pytest.raises(InputError, match=r"sweep.json, line 3, column 3: not valid JSON"):
        read_json(path)
