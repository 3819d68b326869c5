"""Task prompts: what is written is what is read, and nothing else is."""

from __future__ import annotations

import json

import pytest
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.artifacts.prompts import (
    MAX_PROMPTS_BYTES,
    TaskPrompts,
    format_prompts,
    parse_prompts,
)

TASKS = TaskPrompts(
    {"query": "task: search result | query: ", "STS": "", "x": "a\n\t\u2028"}, "STS"
)


def test_what_is_written_is_what_is_read():
    assert parse_prompts(format_prompts(TASKS), "f") == TASKS
    assert format_prompts(TASKS) == format_prompts(parse_prompts(format_prompts(TASKS), "f"))


def test_the_default_is_for_texts_without_a_task():
    assert TASKS.text(None, "b") == ""
    assert TASKS.text("query", "b") == "task: search result | query: "
    assert TaskPrompts({"query": "q"}).text(None, "b") == ""


def test_a_task_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UsageError, match=r"of b \(STS, query, x\), got 'q'; pass one of them"):
        TASKS.text("q", "b")
    with pytest.raises(UsageError, match=r"\(0, 1, 10, .*, 3, 4, and 5 more\), got 'q'"):
        TaskPrompts({str(number): "" for number in range(25)}).text("q", "b")


DAMAGED = {
    "": "expected JSON, got text that is not",
    "[]": "the fields prompts and default alone, got an array of 0",
    '{"prompts": {"a": ""}}': "the fields prompts and default alone, got an object",
    '{"prompts": {"a": ""}, "default": null, "x": 1}': "the fields prompts and default alone",
    '{"prompts": {}, "default": null}': "prompts: expected an object of 1 to 1000 texts",
    '{"prompts": null, "default": null}': "an object of 1 to 1000 texts, got null",
    json.dumps({"prompts": {str(n): "" for n in range(1001)}, "default": None}): "1 to 1000 texts",
    '{"prompts": {"": ""}, "default": null}': 'names of 1 to 200 printable characters, got ""',
    '{"prompts": {"a\\n": ""}, "default": null}': "names of 1 to 200 printable characters",
    json.dumps({"prompts": {"a" * 201: ""}, "default": None}): "names of 1 to 200 printable",
    '{"prompts": {"a": 1}, "default": null}': "prompts.a: expected a string, got 1",
    '{"prompts": {"a": "", "a": ""}, "default": null}': "given twice",
    '{"prompts": {"a": ""}, "default": "b"}': 'default: expected null or one of a, got "b"',
    '{"prompts": {"a": ""}, "default": 1}': "default: expected null or one of a, got 1",
    '{"prompts": {"a": "\\ud800"}, "default": null}': "got",
    "[" * 9999: "expected JSON, got",
    " " * (MAX_PROMPTS_BYTES + 1): "expected at most 1048576 bytes, got 1048577",
}
"""Content of a file, and what is said of it; tests/native has the host say the same."""


@pytest.mark.parametrize(("content", "message"), DAMAGED.items(), ids=range(len(DAMAGED)))
def test_damaged_prompts_are_refused(content: str, message: str):
    with pytest.raises(ArtifactError) as raised:
        parse_prompts(content.encode(), "bundle/tokenizer/prompts.json")
    assert str(raised.value).startswith("bundle/tokenizer/prompts.json: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
