"""gemma3-host as a process: its environment, what it keeps, its terminal."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..runtime.conftest import Command
from ..runtime.toy_model import reference_greedy
from .conftest import Host
from .library import environment
from .test_host import PROMPT, TOKENS


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
