"""model/README.md: a row for every name on EasyDeL's two pages, and a test behind every row."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
from pathlib import Path

import pytest
from gemma3_export.model import (
    classification,
    config,
    decoder,
    generation,
    multimodal,
    outputs,
    past,
    text,
    vision,
    vision_config,
)

ROOT = Path(__file__).parents[2]
MODULES = (
    classification, config, decoder, generation, multimodal, outputs, past, text, vision,
    vision_config,
)  # fmt: skip


def rows() -> list[tuple[str, str, str]]:
    """(name, default, test) of each row of the table."""
    text = (ROOT / "model" / "README.md").read_text().split("| name | default |", 1)[1]
    cells = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    return [(c[1].strip(" `"), c[2].strip(" `"), c[4].strip(" `")) for c in cells]


def names() -> dict[str, str]:
    """Default by name, as the pages have them; an empty string where there is none."""
    lines = (Path(__file__).parent / "seed_names.txt").read_text().splitlines()
    pairs = (line.partition(" = ") for line in lines)
    return {name: default for name, _, default in pairs}


@functools.cache
def functions_of(path: str) -> frozenset[str]:
    """The test functions of a file."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_name_has_one_row_and_every_row_a_name():
    found = [name for name, _, _ in rows()]
    assert len(set(found)) == len(found)
    assert set(found) == set(names())
    assert len(found) > 140


def test_every_row_names_a_test_that_exists():
    for name, _, test in rows():
        path, _, function = test.partition("::")
        assert function in functions_of(path), f"{name}: {test}"
        assert function.startswith("test_")


def test_rows_have_the_defaults_of_the_pages():
    assert {name: default for name, default, _ in rows()} == names()


@pytest.mark.parametrize(
    "kind",
    [
        vision_config.Gemma3Config, config.Gemma3TextConfig, outputs.Gemma3ModelOutputWithPast,
        outputs.Gemma3CausalLMOutputWithPast,
    ],
)  # fmt: skip
def test_fields_are_in_the_order_of_the_pages(kind: type):
    fields = [field.name for field in dataclasses.fields(kind)]
    page = [name.partition(".")[2] for name in names() if name.startswith(f"{kind.__name__}.")]
    page = [name for name in page if name in fields]
    assert len(page) >= 5
    assert fields[: len(page)] == page


@pytest.mark.parametrize("method", ["init_cache", "prepare_inputs_for_generation"])
def test_arguments_are_in_the_order_of_the_pages(method: str):
    ours = list(inspect.signature(getattr(multimodal.Gemma3Model, method)).parameters)
    page = [name.partition(".")[2] for name in names() if name.startswith(f"{method}.")]
    assert ours[1 : 1 + len(page)] == page


@pytest.mark.parametrize(
    "name", [name for name in names() if name.split(".")[0].startswith(("Gemma3", "Siglip"))]
)
def test_every_class_has_what_the_pages_name_with_its_default(name: str):
    kind_name, _, member = name.partition(".")
    kind = next(getattr(m, kind_name) for m in MODULES if hasattr(m, kind_name))
    fields = {field.name: field for field in dataclasses.fields(kind)} if member and (
        dataclasses.is_dataclass(kind)
    ) else {}  # fmt: skip
    if member and member not in fields:
        assert hasattr(kind, member)
    default = names()[name]
    if not default or member in ("text_config", "vision_config"):  # None there makes a default
        return
    if "NONE" in default:
        expected: object = config.EasyDeLGradientCheckPointers.NONE
    else:
        expected = ast.literal_eval(default)
    actual = fields[member].default if member in fields else getattr(kind, member)
    assert actual == expected
    assert re.fullmatch(r"\w+", member)
