"""The same mistake in the same words: gemma3-host and gemma3-run on inputs nobody means."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..runtime.conftest import Command
from ..runtime.toy_bundle import copy_bundle
from .conftest import Host
from .library import environment

ONE = ["--tokens", "2"]
TWO = ["--tokens", "2,3", "--score"]
BAD = os.fsdecode(b"\xff\xfe")
HUGE = str(10**30)
MOST = str(2**31)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tokens", BAD],
        ["--tokens", "2,,3"],
        ["--tokens", "2;3"],
        ["--tokens", "\u0662"],
        ["--tokens", "1_0"],
        ["--tokens", "0x2"],
        ["--tokens", "2.0"],
        ["--tokens", "-" + "9" * 30],
        [*TWO, "--labels", "x"],
        [*TWO, "--labels", ""],
        [*TWO, "--labels", BAD],
        [*TWO, "--labels", "2," + HUGE],
        [*TWO, "--labels", "2,999"],
        [*TWO, "--labels", "2,-5"],
        [*TWO, "--labels", "2"],
        [*TWO, "--outputs-to", BAD],
        [*TWO, "--outputs-to", "/nothere/x.npz"],
        [*TWO, "--outputs-to", ".npz"],
        *([*TWO, flag, "0.5"] for flag in ("--top-p", "--min-p")),
        *([*TWO, flag, "4"] for flag in ("--top-k", "--seed")),
        [*ONE, "--image", BAD],
        [*ONE, "--image", ""],
        *(
            [*ONE, "--max-new-tokens", value]
            for value in (HUGE, "-" + HUGE, MOST, "1e3", "2.0", "")
        ),
        *([*ONE, "--max-new-tokens", value] for value in (str(2**63), "1_0", "\u0662", "+", BAD)),
        *([*ONE, "--seed", value] for value in ("-1", str(2**64), str(2**32), HUGE)),
        *([*ONE, "--top-k", value] for value in (HUGE, MOST, "-1")),
        *([*ONE, "--top-p", v] for v in ("nan", "inf", "-0", "1.0000001", "0x1p-1", "1_0", BAD)),
        *([*ONE, "--top-p", value] for value in ("", "1e400", "nan(7)")),
        *([*ONE, "--temperature", v] for v in ("inf", "nan", "1e400", "-inf", "infinity", "-1e-9")),
        [*ONE, "--min-p", "nan"],
        *([*ONE, flag, "0.5"] for flag in ("--top-p", "--min-p")),
        [*ONE, "--top-k", "4"],
        [*ONE, "--top-p", "0.5", "--temperature", "0"],
        *([*ONE, "--logprobs", value] for value in (HUGE, "-1", str(2**63 - 1), "385")),
        ["--prompt", "", "--score"],
        ["--prompt-file", "/nothere"],
        ["--prompt-file", ""],
        ["--prompt-file", "/"],
        ["--prompt-file", "/dev/zero"],
        ["--prompt-file", "/bin/true"],
        ["--prompt", "-", "--prompt", "-"],
        ["--prompt-file", "/dev/null", *ONE],
        *([*ONE, "--mesh", value] for value in ("", BAD, "1x1\nx")),
        *([*ONE, "--platform", value] for value in ("", BAD)),
        [*ONE, "--chat"],
        [*ONE, "--max-new-tokens"],
        ["--"],
        ["--", "--tokens"],
    ],
    ids=lambda arguments: ascii(" ".join(arguments)),
)
def test_what_nobody_means_is_refused_by_both_in_the_same_line(
    toy: Path, gemma3_host: Host, gemma3_run: Command, arguments: list[str]
):
    status, out, err = gemma3_run(toy, *arguments)
    ended = gemma3_host(toy, *arguments)
    assert (ended.status, ended.out) == (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert ended.err == err.replace("see command --help", "see gemma3-host --help")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tokens", "2" * 5000],
        [*ONE, "--max-new-tokens", "9" * 5000],
        [*ONE, "--image", "x" * 300 + ".png"],
        [*TWO, "--outputs-to", ""],
        [*ONE, "--require-signature", "/nothere"],
        [*ONE, "--max-new", "4"],
    ],
    ids=lambda arguments: arguments[-2],
)
def test_the_rest_is_one_line_and_status_2_in_words_of_their_own(
    toy: Path, gemma3_host: Host, gemma3_run: Command, arguments: list[str]
):
    status, out, err = gemma3_run(toy, *arguments)
    ended = gemma3_host(toy, *arguments)
    assert (ended.status, ended.out) == (status, out) == (2, "")
    assert err.startswith("error: ")
    assert ended.err.startswith("error: ")
    assert err.count("\n") == ended.err.count("\n") == 1


def test_prompts_of_files_and_of_standard_input_are_those_of_the_command_line(
    toy: Path, native: Path, gemma3_host: Host, gemma3_run: Command, tmp_path: Path
):
    (tmp_path / "f").write_bytes(b"the fox\n")
    flags = ("--max-new-tokens", "3", "--json")
    expected = gemma3_host(toy, "--prompt", "the fox", *flags).values[0]["tokens"]
    (value,) = gemma3_host(toy, "--prompt-file", tmp_path / "f", *flags).values
    status, out, _ = gemma3_run(toy, "--prompt-file", tmp_path / "f", *flags)
    piped = subprocess.run(
        [native / "host" / "gemma3-host", toy, "--prompt", "-", *flags],
        input=b"the fox\n", capture_output=True, check=True, env=environment(),
    )  # fmt: skip
    answers = [value, json.loads(out), json.loads(piped.stdout)]
    assert status == 0
    assert [answer["tokens"] for answer in answers] == [expected] * 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tokens", " 2 , +3 "],
        ["--prompt", ""],
        [*ONE, "--temperature", "-1e-400", "--min-p", "-0.0"],
        [*ONE, "--max-new-tokens", " +1 "],
    ],
    ids=" ".join,
)
def test_what_is_only_odd_is_taken_by_both(
    toy: Path, gemma3_host: Host, gemma3_run: Command, arguments: list[str]
):
    arguments = [*arguments, "--json"] + ["--max-new-tokens", "1"] * ("+1" not in arguments[-1])
    status, out, _ = gemma3_run(toy, *arguments)
    (value,) = gemma3_host(toy, *arguments).values
    assert status == 0
    assert {**value, "stats": 0} == {**json.loads(out), "stats": 0}


def _folder(*files: str) -> Callable[[Path], Path]:
    def make(place: Path) -> Path:
        for name in files:
            (place / "x" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "x" / name).write_bytes(b"{}")
        return place / "x"

    return make


def _file(name: str, contents: bytes = b"") -> Callable[[Path], Path]:
    def make(place: Path) -> Path:
        (place / "x").mkdir()
        (place / "x" / name).write_bytes(contents)
        return place / "x" / name

    return make


EXPORT = "export it first: gemma3-export --mesh 1x1 --checkpoint "
HUB = "a model of the Hugging Face hub is downloaded and exported first: gemma3-export --mesh 1x1"
NONE = "nothing of that name; name a folder that gemma3-export wrote"
NOT_BUNDLES: dict[str, tuple[Callable[[Path], Path | str], str]] = {
    "hugging face": (
        _folder("config.json", "model.safetensors"), f"a Hugging Face checkpoint; {EXPORT}" "{}"
    ),
    "shards only": (_folder("a.safetensors"), f"a Hugging Face checkpoint; {EXPORT}" "{}"),
    "hub cache": (
        _folder("refs/main", "blobs/1", "snapshots/abc/config.json"),
        f"a download of the Hugging Face hub; {EXPORT}" "{}/snapshots/abc",
    ),
    "gguf": (_file("m.gguf"), f"a GGUF file; {EXPORT}" "{}"),
    "gguf by its bytes": (_file("sha256-12 '3", b"GGUF\3"), f"a GGUF file; {EXPORT}" "{}"),
    "folder of gguf": (_folder("m.gguf"), f"a folder of GGUF files; {EXPORT}" "{}"),
    "safetensors": (_file("m.safetensors"), f"a safetensors file; {EXPORT}" "{parent}"),
    "orbax": (
        _folder("_CHECKPOINT_METADATA", "manifest.ocdbt"), "an Orbax checkpoint; gemma3-export"
    ),
    "savedmodel": (_folder("saved_model.pb"), "a TensorFlow SavedModel; name the bundle it came"),
    "versions": (_folder("1/saved_model.pb"), "a TensorFlow SavedModel; name the bundle it came"),
    "hub id": (lambda _: "google/gemma-3-270m", f"nothing of that name; {HUB}"),
    "revision": (lambda _: "google/gemma-3-270m@main", f"nothing of that name; {HUB}"),
    "nothing": (lambda place: place / "none", NONE),
    "empty name": (lambda _: "", "a folder without manifest.json; name a folder"),
    "file": (_file("notes.txt", b"hello"), "a file; name a folder that gemma3-export wrote"),
    "empty": (lambda place: place, "a folder without manifest.json; name a folder"),
    "another manifest": (
        _file("manifest.json", b'{"name": "an app"}'), "a file; name a folder that gemma3-export"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_BUNDLES)
def test_what_is_not_a_bundle_is_named_with_its_remedy_by_both(
    tmp_path: Path, gemma3_host: Host, gemma3_run: Command, monkeypatch, name: str
):
    make, message = NOT_BUNDLES[name]
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path)
    ended = gemma3_host(path, *ONE)
    status, out, err = gemma3_run(path, *ONE)
    assert (ended.status, ended.out) == (status, out) == (2, "")
    quoted = f"'{path}'".replace("12 '3", "12 '\"'\"'3") if " " in str(path) else str(path)
    expected = message.replace("{}", quoted).replace("{parent}", str(Path(path).parent))
    shown = "." if path == "" else path
    assert err.startswith(f"error: {shown}: expected the folder of a bundle, got {expected}")
    assert ended.err.removeprefix(f"error: {path}: ") == err.removeprefix(f"error: {shown}: ")


@pytest.mark.parametrize("part", ["manifest.json", "weights/model.safetensors", "tokenizer"])
def test_a_part_of_a_bundle_leads_to_the_whole(
    toy: Path, tmp_path: Path, gemma3_host: Host, gemma3_run: Command, part: str
):
    bundle = Path(shutil.copytree(toy, tmp_path / "b"))
    status, _, err = gemma3_run(bundle / part, *ONE)
    assert status == 2
    assert err.endswith(f": {bundle}\n")
    assert gemma3_host(bundle / part, *ONE).err == err


@pytest.mark.parametrize(
    ("redirection", "status", "err"),
    [
        (">&-", 1, "error: standard output is closed; redirect it to a file, or to /dev/null\n"),
        (">/dev/full", 1, "error: standard output: No space left on device; what was printed is"),
        (">&- 2>&-", 1, ""),
        (">/dev/full 2>/dev/full", 1, ""),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
    ],
)
def test_output_that_is_lost_is_one_line_and_status_1(
    toy: Path, native: Path, redirection: str, status: int, err: str
):
    host = native / "host" / "gemma3-host"
    done = subprocess.run(
        ["bash", "-c", f'"$0" "$@" {redirection}', host, toy, *ONE, "--max-new-tokens", "2"],
        capture_output=True, text=True, errors="replace", env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith(err)
    assert done.stderr.count("\n") == (1 if err else 0)
    assert bool(done.stdout) == (status == 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_host_with_its_status(toy: Path, native: Path, number: signal.Signals):
    process = subprocess.Popen(
        [native / "host" / "gemma3-host", toy, *ONE, "--no-cache", "--mesh", "2x4"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    time.sleep(0.3)
    process.send_signal(number)
    assert process.communicate(timeout=5)[1] == b""
    assert process.returncode == 128 + number


def test_without_a_place_for_a_key_programs_run_and_the_remedy_is_one_that_helps(
    toy: Path, tmp_path: Path, gemma3_host: Host
):
    bundle = copy_bundle(toy, tmp_path / "b")
    flags = (*ONE, "--max-new-tokens", "2", "--json")
    (tmp_path / "file").write_text("")
    ended = gemma3_host(bundle, *flags, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert ended.status == 0
    assert ended.err == (
        "warning: compiled programs cannot be kept: no key can be made in "
        f"{tmp_path / 'file' / 'gemma3-export'}; set XDG_CACHE_HOME to a folder that you "
        "can write\n"
    )
    (tmp_path / "gemma3-export").mkdir()
    (tmp_path / "gemma3-export" / "key").write_text("short")
    ended = gemma3_host(bundle, *flags, XDG_CACHE_HOME=str(tmp_path))
    assert ended.status == 0
    assert "remove that file to have another made" in ended.err
