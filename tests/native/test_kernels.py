"""Programs that call C++ kernels: taken where the kernels are, as gemma3-run takes them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..goldens.tiny import write_checkpoint
from ..parity.bundles import make_bundle
from .conftest import Ended, Host
from .library import PLUGINS, environment

ASK = ["--tokens", "2,17,230,5,99,64,5,12,201,77,3,150,31,8,9,44,120,61,7,19", "--json",
       "--ignore-eos", "--max-new-tokens", "12"]  # fmt: skip
VARIABLE = "GEMMA3_KERNELS"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    checkpoint = write_checkpoint("default", folder / "checkpoint")
    return make_bundle(
        checkpoint, folder / "bundle", dtype="bfloat16", quantize="int4-pure", kernels=True,
        prefill=(8,),  # few rows, whose activations kernels round otherwise than portable programs
    )  # fmt: skip


@pytest.fixture(scope="module")
def kernels(native: Path) -> Path:
    """The library of kernels of the build."""
    return native / "kernels" / "libgemma3_kernels.so"


@pytest.fixture(scope="module")
def expected(bundle: Path, kernels: Path) -> dict[str, list[int]]:
    """Tokens of gemma3-run without kernels and with them, each in a process of its own."""
    tokens = {}
    for value in ("none", str(kernels)):
        done = subprocess.run(
            [Path(sys.executable).with_name("gemma3-run"), bundle, *ASK, "--no-cache"],
            capture_output=True, text=True, check=False, timeout=100,
            env=environment(**{VARIABLE: value}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        tokens[value] = json.loads(done.stdout)["tokens"]
    assert tokens["none"] != tokens[str(kernels)]  # or nothing below could fail
    return tokens


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Flags by which a program is compiled once for all tests."""
    return "--cache-dir", tmp_path_factory.mktemp("compiled")


def tokens_of(ended: Ended) -> list[int]:
    (value,) = ended.values
    return value["tokens"]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_tokens_with_kernels_are_those_of_gemma3_run(
    bundle: Path, kernels: Path, expected: dict, cache: tuple, gemma3_host: Host, plugin: str
):
    flag, folder = cache if plugin == "xla_cpu_pjrt" else (cache[0], cache[1] / "other")
    ask = [bundle, *ASK, flag, folder, "--plugin", PLUGINS[plugin], "--kernels", kernels]
    assert tokens_of(gemma3_host(*ask)) == expected[str(kernels)]
    kept = set(folder.rglob("*.xla"))
    assert kept
    # The second start loads what the first compiled.
    assert tokens_of(gemma3_host(*ask)) == expected[str(kernels)]
    assert set(folder.rglob("*.xla")) == kept


def test_kernels_are_found_by_the_variable_and_beside_the_host(
    bundle: Path, kernels: Path, native: Path, expected: dict, cache: tuple, gemma3_host: Host,
    tmp_path: Path,
):  # fmt: skip
    ask = [bundle, *ASK, *cache]
    assert tokens_of(gemma3_host(*ask)) == expected["none"]
    assert tokens_of(gemma3_host(*ask, GEMMA3_KERNELS=str(kernels))) == expected[str(kernels)]
    # As `make native` installs them.
    for folder, file in (("bin", native / "host" / "gemma3-host"), ("lib", kernels)):
        (tmp_path / folder).mkdir()
        shutil.copy(file, tmp_path / folder)
    for flags, changes, which in (
        ([], {}, str(kernels)),
        ([], {VARIABLE: "none"}, "none"),
        (["--kernels", "none"], {VARIABLE: str(kernels)}, "none"),
    ):
        done = subprocess.run(
            [tmp_path / "bin" / "gemma3-host", *ask, *flags], capture_output=True, text=True,
            check=False, env=environment(**changes), timeout=100,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["tokens"] == expected[which]


def test_a_library_that_is_missing_is_the_users_mistake(
    bundle: Path, gemma3_host: Host, tmp_path: Path
):
    ended = gemma3_host(bundle, *ASK, "--no-cache", "--kernels", tmp_path / "missing.so")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert f"{tmp_path}/missing.so: expected a library of kernels" in ended.err
    assert ended.err.endswith("run make native, or set GEMMA3_KERNELS=none to do without\n")


def test_where_kernels_cannot_be_used_the_portable_programs_are(
    bundle: Path, kernels: Path, expected: dict, cache: tuple, gemma3_host: Host, tmp_path: Path
):
    (tmp_path / "empty.c").write_text("")
    other = tmp_path / "other.so"
    subprocess.run(["gcc", "-shared", "-o", other, tmp_path / "empty.c"], check=True)
    ended = gemma3_host(bundle, *ASK, *cache, "--kernels", other)
    assert json.loads(ended.out)["tokens"] == expected["none"]
    assert re.fullmatch(
        f"warning: {other}: has no kernel gemma3_\\w+: portable programs are used\n", ended.err
    )
    # Programs that the plugin does not compile, one warning for each.
    damaged = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((damaged / "manifest.json").read_text())
    spoiled = {p["stablehlo"] for p in manifest["programs"] if p["variant"] == "kernels"}
    for record in manifest["files"]:
        if record["path"] in spoiled:
            (damaged / record["path"]).write_bytes(b"no program")
            record |= {"bytes": 10, "sha256": hashlib.sha256(b"no program").hexdigest()}
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    ended = gemma3_host(damaged, *ASK, *cache, "--kernels", kernels)
    assert json.loads(ended.out)["tokens"] == expected["none"]
    lines = ended.err.splitlines()
    assert lines
    assert all(line.endswith(": the portable program is used") for line in lines)
    assert len({line.split(":")[1] for line in lines}) == len(lines) <= len(spoiled)
