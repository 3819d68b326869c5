"""gemma3-host answers every command line as gemma3-run does."""

from __future__ import annotations

import difflib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
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


@pytest.mark.parametrize("flags", ["--xla_nonsense=1", "--xla_force_host_platform_device_count=3"])
def test_xla_flags_of_the_caller_are_left_out_with_one_word(
    toy: Path, gemma3_host: Host, flags: str
):
    arguments = ("--tokens", TOKENS, "--max-new-tokens", "5", "--ignore-eos", "--json")
    ended = gemma3_host(toy, *arguments, "--mesh", "2x4", XLA_FLAGS=flags)
    assert ended.status == 0
    assert json.loads(ended.out)["tokens"] == reference_greedy(PROMPT, 5)
    assert ended.err.startswith("warning: XLA_FLAGS is not passed on to the plugin")
    assert ended.err.count("\n") == 1


def test_check_says_what_it_looked_at_and_whether_the_bundle_will_load(
    toy: Path, tmp_path: Path, gemma3_host: Host
):
    ended = gemma3_host(toy, "--check", "--mesh", "2x4")
    assert (ended.status, ended.err) == (0, "")
    found = dict(line.split(maxsplit=1) for line in ended.out.splitlines() if line[0] != " ")
    assert found["bundle"] == str(toy)
    assert found["mesh"] == "2x4 on cpu"
    assert found["loads"] == "yes"
    assert "needed 8" in found["devices"]
    (report,) = gemma3_host(toy, "--check", "--json").values
    assert (report["loads"], report["problem"], report["mesh"]) == (True, None, "1x1")
    damaged = Path(shutil.copytree(toy, tmp_path / "b"))
    with (damaged / "weights" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    for flags in ([], ["--json"]):
        ended = gemma3_host(damaged, "--check", *flags)
        assert ended.status == 2
        assert "model.safetensors: expected" in ended.err
        assert "yes" not in ended.out
        assert not flags or json.loads(ended.out)["loads"] is False


def test_compiled_programs_are_kept_used_and_left_out_when_asked(
    toy: Path, tmp_path: Path, gemma3_host: Host
):
    bundle, kept = Path(shutil.copytree(toy, tmp_path / "b")), tmp_path / "kept"
    shutil.rmtree(bundle / "compiled", ignore_errors=True)
    one = ("--tokens", TOKENS, "--max-new-tokens", "4", "--ignore-eos", "--json")
    expected = reference_greedy(PROMPT, 4)
    assert gemma3_host(bundle, *one, "--no-cache").values[0]["tokens"] == expected
    assert not (bundle / "compiled").exists()
    ended = gemma3_host(bundle, "--compile", "--cache-dir", kept)
    assert (ended.status, ended.err) == (0, "")
    assert not (bundle / "compiled").exists()
    programs = len(list(kept.rglob("*.xla")))
    assert ended.out.startswith(f"{programs} compiled programs written to {kept}")
    (report,) = gemma3_host(bundle, "--check", "--json", "--cache-dir", kept).values
    assert report["compiled"]["programs"] == report["programs"] == programs
    before = sorted(kept.rglob("*"))
    (value,) = gemma3_host(bundle, *one, "--cache-dir", kept).values
    assert value["tokens"] == expected
    assert sorted(kept.rglob("*")) == before


def test_help_and_version(gemma3_host: Host, gemma3_run: Command):
    ended = gemma3_host("--help")
    assert gemma3_host("-h").out == ended.out
    assert (ended.status, ended.err) == (0, "")
    flags = {line.split()[0] for line in gemma3_run("--help")[1].splitlines() if "  --" in line}
    flags = {flag for flag in flags if not flag.startswith("--server-")}
    assert flags <= {line.split()[0] for line in ended.out.splitlines() if line.strip()}
    assert gemma3_host("--version").out.startswith("gemma3-host, version ")


def test_a_reader_that_goes_away_is_no_error_worth_a_word(toy: Path, native: Path):
    arguments = ["--tokens", TOKENS, "--ignore-eos"]
    process = subprocess.Popen(
        [native / "host" / "gemma3-host", toy, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_a_terminal_sees_what_is_going_on_and_ctrl_c_ends_it_at_once(toy: Path, native: Path):
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [native / "host" / "gemma3-host", toy, "--tokens", TOKENS, "--no-cache"],
        stdout=subprocess.DEVNULL, stderr=child, env=environment(),
    )  # fmt: skip
    os.close(child)
    assert b"starting the plugin" in os.read(parent, 200)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert time.monotonic() - sent < 2
    os.close(parent)


def test_no_python_is_in_the_process(native: Path):
    libraries = subprocess.run(
        ["ldd", native / "host" / "gemma3-host"], capture_output=True, text=True, check=True
    ).stdout
    assert "libpython" not in libraries
    assert "libsentencepiece" not in libraries
    assert sys.prefix not in libraries
