"""Programs that call C++ kernels: taken where the kernels are, as gemma3-run takes them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.artifacts.kernels import TARGETS

import gemma3_export as g3

from ..goldens.tiny import write_checkpoint
from ..parity.bundles import make_bundle
from .conftest import Ended, Host
from .library import PLUGINS, environment

ASK = ["--tokens", "2,17,230,5,99,64,5,12,201,77,3,150,31,8,9,44,120,61,7,19", "--json",
       "--ignore-eos", "--max-new-tokens", "12"]  # fmt: skip
VARIABLE = "GEMMA3_KERNELS"
INSTEAD = "portable programs are used"
ABSENT = (
    "the bundle has programs with C++ kernels and there is no libgemma3_kernels.so here (run make "
    f"native, install a platform wheel, or set GEMMA3_KERNELS to its path or to none): {INSTEAD}"
)


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
    ended = gemma3_host(*ask)
    assert (ended.status, ended.err) == (0, f"warning: {ABSENT}\n")
    value = json.loads(ended.out)
    assert (value["tokens"], value["stats"]["variant"]) == (expected["none"], "portable")
    (value,) = gemma3_host(*ask, GEMMA3_KERNELS=str(kernels)).values
    assert (value["tokens"], value["stats"]["variant"]) == (expected[str(kernels)], "kernels")
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
    # Programs that take something else than they should, one warning for each.
    damaged = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((damaged / "manifest.json").read_text())
    spoiled = {p["stablehlo"] for p in manifest["programs"] if p["variant"] == "kernels"}
    (decode,) = {
        p["stablehlo"] for p in manifest["programs"]
        if p["bucket"]["program"] == "decode" and p["variant"] == "portable"
    }  # fmt: skip
    replace_files(damaged, spoiled, (bundle / decode).read_bytes())
    ended = gemma3_host(damaged, *ASK, *cache, "--kernels", kernels)
    assert json.loads(ended.out)["tokens"] == expected["none"]
    lines = ended.err.splitlines()
    assert lines
    assert all(line.endswith(": the portable program is used") for line in lines)
    assert len({line.split(":")[1] for line in lines}) == len(lines) <= len(spoiled)
    # What is no program at all is refused.
    replace_files(damaged, spoiled, b"no program")
    ended = gemma3_host(damaged, *ASK, *cache, "--kernels", kernels)
    assert (ended.status, ended.out) == (2, "")
    assert "as its manifest entry says, got no MLIR bytecode" in ended.err


def replace_files(bundle: Path, paths: set[str], content: bytes) -> None:
    """Change files and their records, as someone who rebuilt the manifest would."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for record in manifest["files"]:
        if record["path"] in paths:
            (bundle / record["path"]).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            record |= {"bytes": len(content), "sha256": digest}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def renamed(bundle: Path, out: Path, *targets: str) -> Path:
    """A copy whose programs with kernels say that they call `targets`."""
    shutil.copytree(bundle, out, ignore=shutil.ignore_patterns("compiled"), copy_function=os.link)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for program in manifest["programs"]:
        if program["variant"] == "kernels":
            program["custom_calls"] = list(targets)
    (out / "manifest.json").unlink()
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def run_python(bundle: Path, *flags: object, **changes: str) -> Ended:
    """`gemma3-run` in a process of its own."""
    done = subprocess.run(
        [Path(sys.executable).with_name("gemma3-run"), bundle, *map(str, flags)],
        capture_output=True, text=True, check=False, timeout=100, env=environment(**changes),
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "name",
    ["abort", "exit", "_exit", "pause", "gets", "longjmp", "system", "_gemma3_x", "gemma3_", "",
     "Gemma3_x", "gemma3_X", "gemma3_x y", "gemma3_x@GLIBC", "gemma3_\u00e4", "gemma3_" + "x" * 58],
)  # fmt: skip
def test_a_manifest_that_names_another_function_is_refused(
    bundle: Path, kernels: Path, gemma3_host: Host, tmp_path: Path, name: str
):
    hostile = renamed(bundle, tmp_path / "b", "gemma3_int4_linear", name)
    ended = gemma3_host(hostile, *ASK, "--no-cache", "--kernels", kernels)
    said = f".custom_calls: expected names of kernels, gemma3_..., got {name};"
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert said in ended.err
    if name in ("abort", ""):  # each takes a second; tests/artifacts has the others
        assert run_python(hostile, *ASK, "--no-cache", GEMMA3_KERNELS=str(kernels)) == ended


@pytest.mark.parametrize("name", ["gemma3_open", "gemma3_int4_product", "gemma3_of_next_year"])
def test_a_kernel_of_another_version_is_not_looked_up_and_the_portable_program_runs(
    bundle: Path, kernels: Path, expected: dict, cache: tuple, gemma3_host: Host, tmp_path: Path,
    name: str,
):  # fmt: skip
    other = renamed(bundle, tmp_path / "b", "gemma3_int4_linear", name)
    said = f"calls {name}, a kernel of another version (export it again with this one): {INSTEAD}\n"
    ended = gemma3_host(other, *ASK, *cache, "--kernels", kernels)
    assert (ended.status, ended.err) == (0, f"warning: the bundle {said}")
    assert json.loads(ended.out)["tokens"] == expected["none"]
    if name == "gemma3_open":
        ended = run_python(other, *ASK, "--no-cache", GEMMA3_KERNELS=str(kernels))
        assert (ended.status, ended.err) == (0, f"the bundle {said}")
        value = json.loads(ended.out)
        assert (value["tokens"], value["stats"]["variant"]) == (expected["none"], "portable")


def calling(bundle: Path, out: Path, variant: str, code: bytes = b"") -> Path:
    """A copy whose first program of a variant is `code`, or calls a handler that jaxlib brings,
    digests made right; the handler would call what is at an address that the program names."""
    shutil.copytree(bundle, out, ignore=shutil.ignore_patterns("compiled"))
    name = "xla_ffi_python_cpu_callback"
    call = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct((4,), jnp.float32), has_side_effect=True)
    exported = jax.export.export(
        jax.jit(lambda x: call(x, index=np.uint64(5))), platforms=["cpu"],
        disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(name)],
    )(jax.ShapeDtypeStruct((4,), jnp.float32))  # fmt: skip
    exported = dataclasses.replace(
        exported, mlir_module_serialized=code or exported.mlir_module_serialized
    )
    manifest = json.loads((out / "manifest.json").read_text())
    program = next(p for p in manifest["programs"] if p["variant"] == variant)
    for path, data in (
        (program["jaxexport"], exported.serialize()),
        (program["stablehlo"], exported.mlir_module_serialized),
    ):
        (out / path).write_bytes(data)
        (record,) = [r for r in manifest["files"] if r["path"] == path]
        record |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def test_a_program_that_calls_what_its_manifest_entry_does_not_name_is_refused(
    bundle: Path, kernels: Path, gemma3_host: Host, tmp_path: Path
):
    """The first program of either variant is a prefill, which every request needs."""
    hostile = calling(bundle, tmp_path / "portable", "portable")
    for run in (gemma3_host, run_python):
        ended = run(hostile, *ASK, "--no-cache", GEMMA3_KERNELS="none")
        assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1), ended
        assert ": expected one that calls nothing outside itself, as its manifest" in ended.err
    hostile = calling(bundle, tmp_path / "kernels", "kernels")
    for run in (gemma3_host, run_python):
        ended = run(hostile, *ASK, "--no-cache", GEMMA3_KERNELS=str(kernels))
        assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1), ended
        assert ": expected one that calls gemma3_" in ended.err
        assert "got one that calls xla_ffi_python_cpu_callback; export" in ended.err


def test_a_program_as_text_is_refused(bundle: Path, gemma3_host: Host, tmp_path: Path):
    """In text the name of an operation can be written so that nobody finds it."""
    hidden = r'%0 = "stablehlo.\63ustom_call"(%x) {call_target_name = "anything"}'
    text = f"""module @m {{ func.func public @main(%x: tensor<4xf32>) -> tensor<4xf32> {{
        {hidden} : (tensor<4xf32>) -> tensor<4xf32> return %0 : tensor<4xf32> }} }}""".encode()
    hostile = calling(bundle, tmp_path / "text", "portable", text)
    for run in (gemma3_host, run_python):
        ended = run(hostile, *ASK, "--no-cache", GEMMA3_KERNELS="none")
        assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1), ended
        assert "got no MLIR bytecode; export" in ended.err


def deadly_library(folder: Path, name: str = "libdeadly.so") -> Path:
    """A library whose kernels end the process when they are called."""
    source = folder / "deadly.c"
    source.write_text("".join(f"void {t}(void) {{ __builtin_trap(); }}\n" for t in TARGETS))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / name, source], check=True)
    return folder / name


def test_kernels_of_what_the_library_needs_are_not_its_own(
    bundle: Path, expected: dict, cache: tuple, gemma3_host: Host, tmp_path: Path
):
    deadly, empty = deadly_library(tmp_path), tmp_path / "empty.c"
    empty.write_text("")
    library = tmp_path / "library.so"
    subprocess.run(
        ["gcc", "-shared", "-o", library, empty, "-Wl,--no-as-needed", deadly], check=True
    )
    found = subprocess.run(
        [sys.executable, "-c", "import ctypes, sys; "
         "print(hasattr(ctypes.CDLL(sys.argv[1]), 'gemma3_int4_linear'))", library],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == "True\n"  # or nothing below could fail
    said = f"{library}: has no kernel gemma3_int4_linear: {INSTEAD}\n"
    ended = gemma3_host(bundle, *ASK, *cache, "--kernels", library)
    assert (ended.status, ended.err) == (0, f"warning: {said}")
    assert json.loads(ended.out)["tokens"] == expected["none"]
    ended = run_python(bundle, *ASK, "--no-cache", GEMMA3_KERNELS=str(library))
    assert (ended.status, ended.err) == (0, said)


def test_the_host_looks_beside_itself_however_it_was_started_and_never_in_the_current_folder(
    bundle: Path, kernels: Path, native: Path, expected: dict, cache: tuple, tmp_path: Path
):
    installed, current = tmp_path / "installed", tmp_path / "current"
    for folder in ("bin", "lib"):
        (installed / folder).mkdir(parents=True)
    shutil.copy(native / "host" / "gemma3-host", installed / "bin")
    # What an attacker would leave in a folder that one works in.
    (current / "lib").mkdir(parents=True)
    (current / "gemma3-host").write_text("")
    deadly_library(current, "libgemma3_kernels.so")
    shutil.copy(current / "libgemma3_kernels.so", current / "lib")
    path = f"{installed / 'bin'}:{os.environ['PATH']}"

    def run(name: str, *flags: object) -> Ended:
        done = subprocess.run(
            [name, bundle, *map(str, flags)], capture_output=True, text=True, check=False,
            timeout=100, cwd=current, env=environment(PATH=path), executable=None,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    (installed / "link").symlink_to(installed / "bin" / "gemma3-host")
    names = ("gemma3-host", "../installed/bin/gemma3-host", str(installed / "link"))
    ended = run("gemma3-host", *ASK, *cache)
    assert (ended.status, ended.err) == (0, f"warning: {ABSENT}\n")
    shutil.copy(kernels, installed / "lib")
    for name in names:
        (value,) = run(name, *ASK, *cache).values
        assert value["tokens"] == expected[str(kernels)], name


def test_what_chooses_code_is_not_read_from_the_environment_of_a_program_with_more_rights(
    native: Path,
):
    objects = sorted(native.glob("**/*.dir/**/*.cc.o"))
    ours = [o for o in objects if "gemma3_objects" in str(o) or "host_objects" in str(o)]
    assert len(ours) > 40
    for path in ours:
        listed = subprocess.run(["nm", "-u", path], capture_output=True, text=True, check=True)
        used = {line.split()[-1] for line in listed.stdout.splitlines()}
        assert "getenv" not in used, path
        assert ("secure_getenv" in used) == (path.name == "environment.cc.o"), path


def test_check_and_verify_say_what_becomes_of_programs_with_kernels(
    bundle: Path, kernels: Path, gemma3_host: Host, tmp_path: Path
):
    """The native --check, and `gemma3-bundle verify` beside it."""
    other = renamed(bundle, tmp_path / "b", "gemma3_of_next_year")
    problem = "the bundle calls gemma3_of_next_year, a kernel of another version"
    for where, value, row, status in (
        (bundle, "none", f"GEMMA3_KERNELS is none: {INSTEAD}", "ok"),
        (
            bundle,
            str(kernels),
            f"4 programs call those of {kernels}, version {g3.__version__}",
            "ok",
        ),
        (other, str(kernels), f"{problem} (export it again with this one): {INSTEAD}", "warning"),
    ):
        (report,) = gemma3_host(where, "--check", "--json", GEMMA3_KERNELS=value).values
        taken = 4 if (where, value) == (bundle, str(kernels)) else 0
        assert (report["kernels"]["programs"], report["kernels"]["of"]) == (taken, 4)
        assert report["kernels"]["library"] == (None if value == "none" else value)
        assert (report["kernels"]["problem"] or "").startswith(problem if where == other else "")
        lines = gemma3_host(where, "--check", GEMMA3_KERNELS=value).out.splitlines()
        (said,) = [line for line in lines if line.startswith("kernels")]
        assert said.endswith(f"{kernels}, called by 4 of 4 programs" if taken else INSTEAD)
        done = subprocess.run(
            [Path(sys.executable).with_name("gemma3-bundle"), "verify", where, "--json"],
            capture_output=True, text=True, check=True, env=environment(GEMMA3_KERNELS=value),
        )  # fmt: skip
        found = json.loads(done.stdout)["kernels"]
        assert found == {"name": "kernels", "status": status, "detail": row}
    ended = gemma3_host(bundle, "--check")
    assert f"kernels   {ABSENT}\n" in ended.out
