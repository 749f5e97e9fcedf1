"""The pipeline's parameters, described once in nextflow_schema.json, and the library's view of them."""

import json

from tlimb.config import PIPELINE_KEYS, Sweep
from tlimb.imports import ROOT

GROUPS = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"]


def test_the_schema_of_the_pipeline_names_the_keys_of_a_sweep():
    assert set(GROUPS["sweep"]["properties"]) == set(Sweep.model_fields)


def test_what_may_stand_beside_a_sweeps_keys_in_its_file_is_what_the_pipeline_takes():
    assert set(GROUPS["run"]["properties"]) == PIPELINE_KEYS


def test_every_parameter_has_a_type_and_a_help_text():
    for group in GROUPS.values():
        for name, entry in group["properties"].items():
            assert entry["type"] in {"string", "integer", "number", "boolean", "object", "array"} and entry[
                "description"
            ].endswith("."), name
