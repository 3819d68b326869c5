"""Control tokens and stop texts in gemma3-host are as in gemma3-run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..runtime.conftest import Command
from ..runtime.test_stop_tokens import AT, CONTROL, FLAGS, TOKENS
from ..runtime.toy_bundle import Toy, make_toy_bundle
from .conftest import Host


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_bundle(tmp_path_factory.mktemp("special") / "toy", Toy(batch=(1,)))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json"],
        ["--json", "--special"],
        ["--special"],
        ["--json", "--stop", CONTROL[TOKENS[AT]]],
        ["--json", "--stop", CONTROL[TOKENS[AT]], "--special"],
        ["--stop", CONTROL[TOKENS[AT]], "--stop", "never"],
        ["--stop", "x" + CONTROL[TOKENS[AT]]],
        ["--stop", "日 <pad>'"],
        ["--stop", ""],
    ],
)
def test_texts_and_refusals_are_those_of_the_python_runtime(
    bundle: Path, gemma3_host: Host, gemma3_run: Command, arguments: list[str]
):
    got = gemma3_host(bundle, *FLAGS, *arguments)
    status, out, err = gemma3_run(bundle, *FLAGS, *arguments)
    assert (got.status, got.err) == (status, err)
    assert got.out.partition('"stats"')[0] == out.partition('"stats"')[0]


def test_text_that_is_not_utf8_is_refused_in_the_same_words(
    bundle: Path, gemma3_host: Host, gemma3_run: Command
):
    given = b"caf\xe9 \xe6\x97\xa5'".decode(errors="surrogateescape")
    got = gemma3_host(bundle, "--prompt", given)
    assert (got.status, got.out, got.err) == gemma3_run(bundle, "--prompt", given)
    assert got.err.startswith("error: --prompt: expected text in UTF-8, got ")
