import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from gemma3_export.artifacts.codec import format_json
from gemma3_export.artifacts.schema import manifest_schema


@pytest.fixture
def manifest(tiny: Path) -> dict:
    return json.loads((tiny / "manifest.json").read_text())


def test_checked_in_schema_is_what_the_dataclasses_say():
    file = resources.files("gemma3_export.artifacts") / "manifest.schema.json"
    assert file.read_text() == format_json(manifest_schema()), (
        "run: python -m gemma3_export.artifacts.schema > artifacts/manifest.schema.json"
    )


def test_module_prints_the_schema():
    command = [sys.executable, "-m", "gemma3_export.artifacts.schema"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == format_json(manifest_schema())


def test_schema_is_a_valid_schema_and_accepts_a_real_manifest(manifest: dict):
    validator = jsonschema.Draft202012Validator
    validator.check_schema(manifest_schema())
    validator(manifest_schema()).validate(manifest)


@pytest.mark.parametrize(
    ("field", "value"),
    [("format_version", 1), ("abstract", 1), ("programs", {}), ("tokenizer", "x"), ("more", 1)],
)
def test_schema_refuses_what_a_reader_refuses(manifest: dict, field: str, value: object):
    manifest[field] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, manifest_schema())


def test_schema_carries_the_words_of_the_source():
    definitions = manifest_schema()["$defs"]
    assert "row-major" in definitions["Mesh"]["description"]
    assert "multiple of 64" in definitions["Weight"]["properties"]["offset"]["description"]
