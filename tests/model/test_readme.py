"""model/README.md: a row for every name on EasyDeL's two pages, and a test behind every row."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from gemma3_export.model import api, config, text, vision, vision_config
from gemma3_export.model.api import generation

from .seed_names import Name, derive, merged, read

ROOT = Path(__file__).parents[2]
MODULES = (api, generation, config, text, vision, vision_config)
NAMES = read()
SIGNATURES = (
    "Gemma3Config", "Gemma3TextConfig", "Gemma3ModelOutputWithPast", "Gemma3CausalLMOutputWithPast",
    "Gemma3Model.init_cache", "Gemma3ForConditionalGeneration.init_cache",
    "Gemma3Model.prepare_inputs_for_generation", "Gemma3Model.update_inputs_for_generation",
    "Gemma3ForConditionalGeneration.apply_lm_head", "Gemma3Model.get_image_features",
    "Gemma3ForConditionalGeneration.get_image_features", "Gemma3RMSNorm.kernel_init",
    "Gemma3TextConfig.attach_custom_arguments",
)  # fmt: skip


def rows() -> list[tuple[str, str, str]]:
    """(name, default, test) of each row of the table."""
    table = (ROOT / "model" / "README.md").read_text().split("| name | default |", 1)[1]
    cells = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    return [(c[1].strip(" `"), c[2].strip(" `"), c[4].strip(" `")) for c in cells]


@functools.cache
def parts_of(path: str) -> dict[str, str]:
    """The source of each function, class and constant of a test file, by its name."""
    source = (ROOT / path).read_text()
    parts: dict[str, str] = {}
    for node in ast.parse(source).body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        body = "\n".join(source.splitlines()[first - 1 : node.end_lineno])
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            parts[node.name] = body
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts |= {name: body for t in targets for name in re.findall(r"\w+", ast.unparse(t))}
    return parts


HELPERS = parts_of("tests/model/api/models.py") | parts_of("tests/model/small.py")


def written(path: str, name: str, seen: frozenset[str] = frozenset()) -> str:
    """The source of a part of a test file with that of all parts it uses."""
    parts = HELPERS | parts_of(path)
    body = parts[name]
    used = set(re.findall(r"\w+", body)) & parts.keys() - seen - {name}
    return body + "".join(written(path, part, seen | used | {name}) for part in used)


def test_every_name_has_one_row_and_every_row_a_name():
    assert [name for name, _, _ in rows()] == [one.name for one in NAMES]
    assert len({one.name for one in NAMES}) == len(NAMES) > 200


def test_rows_have_the_defaults_of_the_pages():
    assert {name: default for name, default, _ in rows()} == {n.name: n.default for n in NAMES}


@pytest.mark.parametrize(("name", "_", "test"), rows(), ids=[name for name, *_ in rows()])
def test_every_row_has_a_test_that_has_to_do_with_its_name(name: str, _: str, test: str):
    path, _, function = test.partition("::")
    assert function.startswith("test_")
    assert function in parts_of(path), f"{test} is not there"
    word = name.rpartition(".")[2]
    if "*" not in word and word not in ("Example", "self", "PretrainedConfig"):
        assert re.search(rf"(?<![a-z]){word}(?![a-z])", written(path, function)), name


def target(path: str) -> Any:
    """What a name of the pages is here."""
    kind, *members = path.split(".")
    found = next(vars(module)[kind] for module in MODULES if kind in vars(module))
    return functools.reduce(getattr, members, found)


@pytest.mark.parametrize("path", SIGNATURES)
def test_parameters_have_the_order_and_the_defaults_of_the_pages(path: str):
    """Ours may go on after them; what the prose alone names comes anywhere."""
    page = [n for n in NAMES if n.name.rpartition(".")[0] == path]
    parameters = inspect.signature(target(path)).parameters
    page = [n for n in page if n.name.rpartition(".")[2] in parameters]
    ours = [name for name in parameters if name != "self"]
    firm = [n for n in page if not n.name.endswith((".shardings", ".self"))]
    kept = [name for name in ours if name != "shardings" or path.endswith("init_cache")]
    if path.endswith("init_cache"):
        firm = [n for n in page if not n.name.endswith(".self")]
    assert len(firm) >= 1
    assert kept[: len(firm)] == [n.name.rpartition(".")[2] for n in firm]
    for name in firm:
        actual = parameters[name.name.rpartition(".")[2]].default
        if name.default:
            assert actual == value_of(name.default), name


def value_of(default: str) -> object:
    """The value that a page writes."""
    if default.endswith(".NONE"):
        return config.EasyDeLGradientCheckPointers.NONE
    try:
        return ast.literal_eval(default)
    except ValueError:
        return default.lower().replace("_", "-")  # IMAGE_TEXT_TO_TEXT, a member of EasyDeL's


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n.default and n.name.count(".") == 1], ids=lambda n: n.name
)
def test_fields_and_attributes_have_the_defaults_of_the_pages(name: Name):
    kind, _, member = name.name.partition(".")
    fields = {}
    if dataclasses.is_dataclass(target(kind)):
        fields = {field.name: field for field in dataclasses.fields(target(kind))}
    actual = fields[member].default if member in fields else target(name.name)
    assert actual == value_of(name.default)


PAGE = """lib.things#

class lib.things.Lamp(size=3, colour: Shade | None = None, sort: LampConfig = None, **kw)[source]#

Bases: Thing

A lamp. Class Attributes: _kind: TABLE a kind _count: 4 how many

Parameters
  • size (int, optional, defaults to 3) \N{EN DASH} How large.

  • bulb (Dict, optional) \N{EN DASH}

    Its parts. Expected contents:

    watts (float, optional):

    How much. If unspecified, it defaults to 40.

    socket (str):

    One of a few. Can be one of [\N{LEFT SINGLE QUOTATION MARK}e27\N{RIGHT SINGLE QUOTATION MARK}]
    and nothing else.

Example:

light(brightness, *args)[source]#

Made using turn_current_on and then calls Grid.give_power.

  • grid \N{EN DASH} where power comes from

  • \N{RIGHT DOUBLE QUOTATION MARK}heat\N{RIGHT DOUBLE QUOTATION MARK}: given back

colour: Shade | None = None#
static plugs()[source]#"""


def test_names_are_derived_from_signatures_bullets_and_prose():
    assert merged(derive(PAGE)) == [
        Name("Lamp"), Name("Lamp.size", "3", "int, optional, defaults to 3"),
        Name("Lamp.colour", "None", "Shade | None"), Name("Lamp.sort", "None", "LampConfig"),
        Name("LampConfig"), Name("Lamp.**kw"), Name("Lamp._kind", "TABLE"),
        Name("Lamp._count", "4"), Name("Lamp.bulb", "", "Dict, optional"),
        Name("Lamp.bulb.watts", "40", "float, optional"), Name("Lamp.bulb.socket", "", "str"),
        Name("Lamp.bulb.socket.e27"), Name("Lamp.Example"), Name("Lamp.light"),
        Name("Lamp.light.brightness"), Name("Lamp.light.*args"), Name("Lamp.turn_current_on"),
        Name("Grid.give_power"), Name("Lamp.light.grid"), Name("Lamp.light.heat"),
        Name("Lamp.plugs"),
    ]  # fmt: skip
