"""gemma3-host answers every command line as gemma3-run does."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gemma3_export.artifacts.manifest import ProgramName

from ..runtime.conftest import Command
from ..runtime.toy_bundle import BOS, Toy, make_toy_bundle
from ..runtime.toy_model import VOCAB, reference_greedy
from .conftest import Ended, Host
from .library import environment

PROMPT = [BOS, 17, 18, 40]
TOKENS = ",".join(map(str, PROMPT))
SAMPLED = ["--temperature", "0.9", "--top-k", "40", "--top-p", "0.9", "--min-p", "0.01"]


def _close(got: Any, expected: Any) -> bool:
    """Equal, numbers within 1e-4; statistics, which are measured, by their names only."""
    if isinstance(expected, dict):
        return list(got) == list(expected) and all(
            (key == "stats" and list(got[key]) == list(expected[key]))
            or _close(got[key], expected[key])
            for key in expected
        )  # fmt: skip
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(_close, got, expected))
    if isinstance(expected, float):
        return got == pytest.approx(expected, abs=1e-4)
    return type(got) is type(expected) and got == expected


def _flags(*prompts: list[int]) -> list[str]:
    return [flag for prompt in prompts for flag in ("--tokens", ",".join(map(str, prompt)))]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tokens", TOKENS, "--max-new-tokens", "9", "--ignore-eos", "--json", "--logprobs", "2"],
        ["--tokens", TOKENS, "--max-new-tokens", "1", "--json"],
        ["--tokens", TOKENS, "--ignore-eos", "--json"],  # as many as fit
        ["--tokens", TOKENS, "--json", "--mesh", "2x4", "--platform", "cpu"],
        ["--prompt", "the fox", "--max-new-tokens", "20", "--json"],
        ["--prompt", " the <start_of_turn> 日本 🙂\n", "--max-new-tokens", "20", "--json"],
        ["--prompt", "the fox", "--prompt", "a", "--max-new-tokens", "5", "--chat"],
        [*_flags(PROMPT, [BOS], [BOS, *range(40, 60)], [9], [BOS, 11]), "--max-new-tokens", "6"],
        [*_flags(PROMPT, [9]), "--max-new-tokens", "20", "--seed", "7", *SAMPLED],
        ["--tokens", TOKENS, "--mesh", "2x4", "--json", "--seed", "8", *SAMPLED],
        ["--score", "--tokens", TOKENS, "--json"],
        ["--score", "--tokens", "2,3", "--tokens", TOKENS],
        ["--score", "--prompt", "the fox and 日本", "--json"],
    ],
    ids=" ".join,
)
def test_prints_the_json_of_gemma3_run(
    toy: Path, gemma3_host: Host, gemma3_run: Command, arguments: list[str]
):
    status, out, err = gemma3_run(toy, *arguments)
    assert (status, err) == (0, "")
    expected = [json.loads(line) for line in out.splitlines()]
    got = gemma3_host(toy, *arguments).values
    assert len(expected) == len(got)
    assert _close(got, expected), (got, expected)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompt", "the fox", "--max-new-tokens", "20"],
        ["--tokens", TOKENS, "--max-new-tokens", "30", "--ignore-eos"],
    ],
    ids=" ".join,
)
def test_prints_the_text_of_gemma3_run(
    toy: Path, gemma3_host: Host, gemma3_run: Command, arguments: list[str]
):
    assert gemma3_host(toy, *arguments) == Ended(*gemma3_run(toy, *arguments))


def test_prints_the_score_table_of_gemma3_run(toy: Path, gemma3_host: Host, gemma3_run: Command):
    """The same lines; their numbers may differ in the last digit, as two XLAs round apart."""
    arguments = ["--score", "--prompt", "the\tquick 'fox'"]
    number = re.compile(r"-?\d+\.\d+")
    host, run = gemma3_host(toy, *arguments), Ended(*gemma3_run(toy, *arguments))
    assert (host.status, host.err) == (run.status, run.err) == (0, "")
    assert number.sub("#", host.out) == number.sub("#", run.out)
    got, expected = ([float(n) for n in number.findall(text)] for text in (host.out, run.out))
    assert len(expected) == 10  # eight tokens, their loss and its perplexity
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_stop_texts_end_the_text_as_in_gemma3_run(
    toy: Path, gemma3_host: Host, gemma3_run: Command
):
    arguments = ["--tokens", TOKENS, "--max-new-tokens", "20", "--ignore-eos"]
    text = gemma3_host(toy, *arguments, "--json").values[0]["text"]
    stops = ["--stop", text[4:6], "--stop", "never"]
    (value,) = gemma3_host(toy, *arguments, *stops, "--json").values
    assert (value["text"], value["finish_reason"]) == (text.partition(text[4:6])[0], "stop")
    assert value["tokens"] == json.loads(gemma3_run(toy, *arguments, *stops, "--json")[1])["tokens"]
    assert gemma3_host(toy, *arguments, *stops).out == value["text"] + "\n"


@pytest.mark.parametrize(("program", "flag"), [("classify", "--classify"), ("embed", "--embed")])
def test_heads_print_the_json_and_the_table_of_gemma3_run(
    tmp_path: Path, gemma3_host: Host, gemma3_run: Command, program: str, flag: str
):
    toy = Toy(batch=(1, 2), programs=(ProgramName(program),), add_eos=True)
    bundle = make_toy_bundle(tmp_path / "b", toy)
    several = [flag, *_flags(PROMPT, [9], [BOS, 8, 8])]
    expected = [json.loads(line) for line in gemma3_run(bundle, *several)[1].splitlines()]
    assert _close(gemma3_host(bundle, *several).values, expected)
    one = [flag, "--prompt", "the fox"]
    assert gemma3_host(bundle, *one) == Ended(*gemma3_run(bundle, *one))
    assert gemma3_host(bundle, "--prompt", "a") == Ended(*gemma3_run(bundle, "--prompt", "a"))


def test_statistics_are_plausible_and_a_table_on_stderr(toy: Path, gemma3_host: Host):
    ended = gemma3_host(toy, *_flags(PROMPT, [9, 9]), "--max-new-tokens", "5", "--stats")
    stats = json.loads(ended.out.splitlines()[0])["stats"]
    assert 0 < stats["load_s"] < stats["first_token_s"] < 60
    assert stats["prefill_tok_s"] > 0
    assert stats["decode_tok_s"] > 0
    assert 50e6 < stats["peak_rss_bytes"] < 2e9
    names = [line.split("  ")[0] for line in ended.err.splitlines()]
    assert names == ["load", "first token", "prefill", "decode", "peak memory", "mesh"]
    assert ended.err.endswith(" 1x1  1 cpu device; the bundle has 2x4 too\n")
    assert "6 tokens" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--prompt", "a", "--tokens", "2"],
        ["--tokens", "2", "--chat"],
        ["--tokens", "2,x"],
        ["--tokens", ""],
        ["--tokens", "2,"],
        ["--tokens", f"2,{VOCAB}"],
        ["--tokens", "-1"],
        ["--tokens", ",".join(["2"] * 65)],
        ["--tokens", "2", "--max-new-tokens", "64"],
        ["--tokens", "2", "--max-new-tokens", "0"],
        ["--tokens", "2", "--max-new-tokens", "-3"],
        ["--tokens", "2", "--max-new-tokens", "x"],
        ["--tokens", "2", "--temperature", "nan"],
        ["--tokens", "2", "--temperature", "-0.5"],
        ["--tokens", "2", "--temperature", "hot"],
        ["--tokens", "2", "--top-k", "-1"],
        ["--tokens", "2", "--top-p", "0.0"],
        ["--tokens", "2", "--min-p", "2.5"],
        ["--tokens", "2", "--seed", "-1"],
        ["--tokens", "2", "--stop", ""],
        ["--tokens", "2", "--logprobs", "0"],
        ["--tokens", "2", "--logprobs", "999"],
        ["--tokens", "2", "--mesh", "4x2"],
        ["--tokens", "2", "--platform", "tpu"],
        ["--tokens", "2", "--image", "a.png"],
        ["--tokens", "2", "--pan-and-scan"],
        ["--tokens", "2", "--tokens", "3", "--image", "a.png"],
        ["--tokens", "2", "--classify"],
        ["--tokens", "2", "--embed"],
        ["--tokens", "2", "--score"],
        ["--tokens", "2", "--score", "--classify"],
        ["--tokens", "2,3", "--score", "--stop", "x"],
        ["--tokens", "2", "--prompt"],
        ["--tokens", "2", "--json=3"],
        ["more", "--tokens", "2"],
    ],
    ids=" ".join,
)
def test_refuses_in_the_words_of_gemma3_run(
    toy: Path, gemma3_host: Host, gemma3_run: Command, arguments: list[str]
):
    status, out, err = gemma3_run(toy, *arguments)
    ended = gemma3_host(toy, *arguments)
    assert (ended.status, ended.out) == (status, out) == (2, "")
    assert ended.err == err.replace("see command --help", "see gemma3-host --help")


@pytest.mark.parametrize("content", [b"the fox\n", b"\n", b"", b"\xff"], ids=repr)
def test_takes_a_piped_prompt_as_gemma3_run_does(
    toy: Path, native: Path, gemma3_run: Command, content: bytes
):
    """A text, nothing (then one line says what is missing), and bytes that are no text."""
    (read, write), flags = os.pipe(), [str(toy), "--max-new-tokens", "5"]
    os.write(write, content)
    os.close(write)
    stdin = os.dup(0)
    os.dup2(read, 0)
    try:
        expected = Ended(*gemma3_run(*flags))
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        os.close(read)
    done = subprocess.run(
        [native / "host" / "gemma3-host", *flags],
        input=content, capture_output=True, check=False, env=environment(), timeout=300,
    )  # fmt: skip
    assert expected.status == (0 if content == b"the fox\n" else 2)
    assert Ended(done.returncode, done.stdout.decode(), done.stderr.decode()) == expected


def refused(ended: Ended, message: str) -> None:
    assert (ended.status, ended.out) == (2, ""), ended
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert message in ended.err, ended.err


@pytest.mark.parametrize(
    "flag",
    [
        "--tempature", "--prom", "--promt=x", "--tmp", "--top_k", "--mx-new-token", "--jsno", "--x",
        "--classfy", "--stat", "--no", "--p", "--topp", "--max-tokens", "--ignore", "-x",
    ],
)  # fmt: skip
def test_suggests_what_difflib_finds_alike_as_click_does(gemma3_host: Host, flag: str):
    ended = gemma3_host("b", flag)
    name = flag.partition("=")[0]
    known = re.findall(r"^ +(?:-h, )?(--[a-z-]+)", gemma3_host("--help").out, re.M)
    meant = sorted(difflib.get_close_matches(name, known)) if flag.startswith("--") else []
    if not meant:
        refused(ended, f"No such option '{name}'; see gemma3-host --help")
    else:
        listed = " or ".join(part for part in (", ".join(meant[:-1]), meant[-1]) if part)
        refused(ended, f"No such option '{name}'; did you mean {listed}? See gemma3-host --help")


def test_refuses_what_only_a_native_host_can_get_wrong(
    toy: Path, tmp_path: Path, gemma3_host: Host
):
    one = ["--tokens", "2"]
    refused(gemma3_host(), "Missing argument 'BUNDLE'; see gemma3-host --help")
    refused(gemma3_host(toy, "--qqq"), "No such option '--qqq'; see gemma3-host --help")
    refused(gemma3_host(toy, *one, "--plugin", tmp_path / "none.so"), str(tmp_path / "none.so"))
    (tmp_path / "text.so").write_text("not a library")
    refused(gemma3_host(toy, *one, "--plugin", tmp_path / "text.so"), str(tmp_path / "text.so"))
    other = next(Path("/usr/lib").rglob("libpng*.so*"))
    refused(gemma3_host(toy, *one, "--plugin", other), str(other))
    refused(gemma3_host(tmp_path / "none", *one), "expected the folder of a bundle")
    refused(gemma3_host(toy, "--tokens", "9" * 20), "token 1 of prompt 1 is 99999999999999999999")
    refused(gemma3_host(toy, "--check", "--compile"), "--check and --compile exclude each other")
    refused(gemma3_host(toy, "--check", *one), "--check takes no prompt")
    broken = gemma3_host(toy, "--prompt", os.fsdecode(b"\xff\xfe"))
    refused(broken, "--prompt: expected text in UTF-8, got '\\xff\\xfe'")


def test_a_bundle_without_weights_or_tokenizer_is_refused_like_in_gemma3_run(
    tmp_path: Path, gemma3_host: Host, gemma3_run: Command
):
    small = {"batch": (1,), "prefill": (4,)}
    abstract = make_toy_bundle(tmp_path / "abstract", Toy(**small, abstract=True))
    assert gemma3_host(abstract, "--tokens", "2") == Ended(*gemma3_run(abstract, "--tokens", "2"))
    dumb = make_toy_bundle(tmp_path / "dumb", Toy(**small, tokenizer=False))
    for arguments in (["--prompt", "a"], ["--tokens", "2"]):
        assert gemma3_host(dumb, *arguments) == Ended(*gemma3_run(dumb, *arguments))
    (value,) = gemma3_host(
        dumb, "--tokens", TOKENS, "--json", "--max-new-tokens", "3", "--ignore-eos"
    ).values
    assert value["tokens"] == reference_greedy(PROMPT, 3)


@pytest.mark.parametrize(
    ("programs", "arguments"),
    [
        (("score",), []),
        (("prefill", "generate"), ["--logprobs", "2"]),
        (("prefill", "generate"), ["--score"]),
        (("prefill", "generate"), ["--classify"]),
        (("classify", "embed"), []),
    ],
    ids=str,
)
def test_programs_that_are_missing_are_named_like_in_gemma3_run(
    tmp_path: Path, gemma3_host: Host, gemma3_run: Command, programs: tuple[str, ...],
    arguments: list[str],
):  # fmt: skip
    toy = Toy(batch=(1,), prefill=(4,), programs=tuple(map(ProgramName, programs)))
    bundle = make_toy_bundle(tmp_path / "b", toy)
    expected = Ended(*gemma3_run(bundle, "--tokens", TOKENS, *arguments))
    assert expected.status == 2
    assert "--programs" in expected.err or "another checkpoint" in expected.err
    assert gemma3_host(bundle, "--tokens", TOKENS, *arguments) == expected


def test_a_damaged_tokenizer_is_refused_like_in_gemma3_run(
    toy: Path, tmp_path: Path, gemma3_host: Host, gemma3_run: Command
):
    bundle = Path(shutil.copytree(toy, tmp_path / "b"))
    path = bundle / "tokenizer" / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert gemma3_host(bundle, "--prompt", "a") == Ended(*gemma3_run(bundle, "--prompt", "a"))
