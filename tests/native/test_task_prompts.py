"""gemma3-host --embed --task: the prompts of tasks, read as strictly as gemma3-run reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.artifacts.prompts import TaskPrompts, format_prompts

from ..artifacts.test_prompts import DAMAGED
from ..runtime.toy_bundle import Toy, make_toy_bundle
from .conftest import Command, Ended, Host

TASKS = TaskPrompts({"query": "task: fox | ", "plain": "", "日本": "a\nb: "}, "query")
TOY = Toy(prefill=(32,), programs=(ProgramName.EMBED,), caches=(64,))


def make(path: Path, prompts: bytes | None) -> Path:
    return make_toy_bundle(path, Toy(**{**vars(TOY), "prompts": prompts}))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("tasks") / "bundle", format_prompts(TASKS))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--task", "query", "--prompt", "the fox"],
        ["--task", "日本", "--prompt", "the fox", "--prompt", "and"],
        ["--task", "plain", "--prompt", "the fox"],
        ["--prompt", "the fox"],
        ["--tokens", "2,30,31"],
    ],
    ids=" ".join,
)
def test_vectors_are_those_of_gemma3_run(
    bundle: Path, gemma3_host: Host, gemma3_run: Command, arguments: list[str]
):
    lines = gemma3_run(bundle, "--embed", "--json", *arguments)[1].splitlines()
    expected = [json.loads(line)["embedding"] for line in lines]
    values = gemma3_host(bundle, "--embed", "--json", *arguments).values
    got = [value["embedding"] for value in values]
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--embed", "--prompt", "a", "--task", "Query"],
        ["--embed", "--prompt", "a", "--task", "it's"],
        ["--embed", "--tokens", "2,3", "--task", "query"],
        ["--prompt", "a", "--task", "query"],
        ["--embed", "--chat", "--prompt", "a", "--task", "query"],
        ["--embed", "--chat", "--prompt", "a"],
    ],
    ids=" ".join,
)
def test_refuses_in_the_words_of_gemma3_run(
    bundle: Path, gemma3_host: Host, gemma3_run: Command, arguments: list[str]
):
    refused = Ended(*gemma3_run(bundle, *arguments))
    assert refused.status == 2
    assert gemma3_host(bundle, *arguments) == refused


def test_a_bundle_without_tasks_has_none(tmp_path: Path, gemma3_host: Host, gemma3_run: Command):
    plain = make(tmp_path / "plain", None)
    arguments = ["--embed", "--prompt", "a", "--task", "query"]
    assert gemma3_host(plain, *arguments) == Ended(*gemma3_run(plain, *arguments))


@pytest.mark.parametrize(("content", "message"), DAMAGED.items(), ids=range(len(DAMAGED)))
def test_damaged_prompts_are_refused_as_by_gemma3_run(
    tmp_path: Path, gemma3_host: Host, content: str, message: str
):
    damaged = make(tmp_path / "damaged", content.encode())
    ended = gemma3_host(damaged, "--embed", "--prompt", "a")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "tokenizer/prompts.json: " in ended.err
    assert message in ended.err
