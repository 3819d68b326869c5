"""The wheel: built, repaired and installed, it runs and links outside the repository.

The environments here see what the tests' own has installed; gemma3_export alone is the wheel's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from gemma3_export.artifacts.kernels import LIBRARY

from .goldens.tiny import write_checkpoint
from .native.library import BIN, ROOT, SITE_PACKAGES, build, locked
from .parity.bundles import make_bundle
from .runtime.toy_bundle import BOS, Toy, make_toy_bundle
from .runtime.toy_model import reference_greedy

EXAMPLES = ROOT / "runtime" / "native" / "examples"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PROMPT, COUNT = [BOS, 17, 18], 16
TOKENS = ",".join(map(str, PROMPT))
BUILD = (sys.executable, "-m", "build", "--no-isolation")
COMMANDS = ("gemma3-run", "gemma3-export", "gemma3-bundle", "gemma3-bench", "gemma3-host")


def clean_environment(**changes: str) -> dict[str, str]:
    """Nothing of it leads to the repository or to the tests' environment, CMake apart."""
    dropped = ("PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "GEMMA3_KERNELS")
    kept = {k: v for k, v in os.environ.items() if k not in (*dropped, "TF_CPP_MIN_LOG_LEVEL")}
    return {**kept, "PATH": f"{Path.home() / '.cargo' / 'bin'}:{os.environ['PATH']}", **changes}


def run(*command: object, cwd: Path, status: int = 0, **changes: str) -> str:
    """What a command prints on stdout, or on stderr where it is to fail."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=clean_environment(**changes),
    )
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stderr if status else done.stdout


def build_wheel(out: Path, *settings: str, **changes: str) -> Path:
    """A wheel by the backend, in this environment."""
    path = f"{BIN}:{os.environ['PATH']}"  # the same ninja as everywhere, or all is compiled again
    options = [f"-C{setting}" for setting in settings]
    run(*BUILD, "--wheel", "--outdir", out, *options, ".", cwd=ROOT, PATH=path, **changes)
    (wheel,) = out.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """An environment with the wheel; its folder."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install")
    run(*pip, "--quiet", "--no-deps", "--no-index", wheel, cwd=folder.parent)
    (packages / "others.pth").write_text(str(SITE_PACKAGES))
    # Where gemma3-host looks for plugins: beside what it is installed with.
    (packages / "xla_plugins").symlink_to(SITE_PACKAGES / "xla_plugins")
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make wheel` makes it, from what the native tests compiled."""
    folder = tmp_path_factory.mktemp("wheel")
    compiled = build("tests")
    with locked(compiled):
        built = build_wheel(folder / "built", "native=required", f"build-dir={compiled}")
    path = f"{BIN}:{os.environ['PATH']}"
    repair = (BIN / "auditwheel", "repair", built, "--wheel-dir", folder / "repaired")
    run(*repair, cwd=folder, PATH=path)
    (repaired,) = (folder / "repaired").glob("*.whl")
    return repaired


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel."""
    return install(wheel, tmp_path_factory.mktemp("installed") / "environment")


@pytest.fixture(scope="module")
def prefix(installed: Path) -> Path:
    """The folder of bin, include and lib that the wheel brought."""
    asked = (installed / "bin" / "python", "-m", "gemma3_export.native", "--prefix")
    return Path(run(*asked, cwd=installed).strip())


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "bundle"
    return make_toy_bundle(out, Toy(batch=(1,), prefill=(4,)))


def test_it_is_for_other_machines_and_small(wheel: Path):
    assert re.fullmatch(rf"gemma3_export-{VERSION}-py3-none-manylinux_2_\d+_\w+\.whl", wheel.name)
    assert wheel.stat().st_size < 10e6
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    headers = {path.name for path in (ROOT / "runtime" / "native" / "include").glob("*.h")}
    native = {
        "bin/gemma3-host",
        "lib/libgemma3.so",
        "lib/libgemma3.a",
        f"lib/{LIBRARY}",
        *(f"include/{name}" for name in headers),
    }
    assert {f"gemma3_export/_native/{name}" for name in native} <= {*names}
    roots = {name.split("/")[0] for name in names}
    info = f"gemma3_export-{VERSION}.dist-info"
    assert roots == {"gemma3_export", "gemma3_export.libs", info}
    assert not [name for name in names if "runtime/native" in name or "tests" in name]


def test_it_needs_of_the_system_what_every_linux_has(prefix: Path):
    for path in (prefix / "bin" / "gemma3-host", *prefix.glob("lib/*.so*")):
        lines = run("ldd", path, cwd=prefix).splitlines()
        system = {line.split()[0] for line in lines if str(prefix.parents[1]) not in line}
        allowed = r"linux-vdso|lib(c|m|stdc\+\+|gcc_s|z|dl|pthread)\.so|.*/ld-linux"
        assert [name for name in system if not re.match(allowed, name)] == [], path


def test_commands_and_the_package_are_the_wheels(installed: Path, prefix: Path, tmp_path: Path):
    for name in COMMANDS:
        said = run(installed / "bin" / name, "--version", cwd=tmp_path)
        assert said == f"{name}, version {VERSION}\n"
    code = "import gemma3_export as g, sys; print(g.__file__, g.__version__, 'jax' in sys.modules)"
    said = run(installed / "bin" / "python", "-c", code, cwd=tmp_path)
    assert said == f"{prefix.parent / '__init__.py'} {VERSION} False\n"
    assert installed in prefix.parents


def test_both_hosts_give_the_tokens_of_the_model(installed: Path, toy: Path, tmp_path: Path):
    ask = (toy, "--tokens", TOKENS, "--max-new-tokens", COUNT, "--ignore-eos", "--json")
    for name in ("gemma3-run", "gemma3-host"):
        # No python3 of another environment on PATH: the plugin is the one beside the wheel.
        said = run(installed / "bin" / name, *ask, "--no-cache", cwd=tmp_path, PATH="/usr/bin:/bin")
        assert json.loads(said)["tokens"] == reference_greedy(PROMPT, COUNT), name
    said = run(
        installed / "bin" / "gemma3-host", toy, "--check", cwd=tmp_path, PATH="/usr/bin:/bin"
    )
    assert f"{installed}/" in said.split("plugin", 1)[1].splitlines()[0]


def test_kernels_are_those_of_the_wheel_and_missing_ones_are_told(
    installed: Path, prefix: Path, tmp_path: Path
):
    bundle = make_bundle(
        write_checkpoint("default", tmp_path / "checkpoint"),
        tmp_path / "bundle",
        prefill=(8,),
        dtype="bfloat16",
        quantize="int4-pure",
        kernels=True,
    )
    ask = (bundle, "--tokens", TOKENS, "--max-new-tokens", "2", "--json", "--no-cache")
    for name in ("gemma3-run", "gemma3-host"):
        said = run(installed / "bin" / name, *ask, cwd=tmp_path)
        assert json.loads(said)["stats"]["variant"] == "kernels", name

    def row() -> list[str]:
        command = (installed / "bin" / "gemma3-bundle", "verify", bundle, "--no-compile")
        lines = run(*command, cwd=tmp_path).splitlines()
        (line,) = (line for line in lines if line.startswith("kernels "))
        return line.split(maxsplit=2)[1:]

    library, away = prefix / "lib" / LIBRARY, tmp_path / LIBRARY
    assert row() == ["ok", f"4 programs call those of {library}, version {VERSION}"]
    shutil.move(library, away)
    try:
        status, said = row()
        native = run(installed / "bin" / "gemma3-host", bundle, "--check", cwd=tmp_path)
    finally:
        shutil.move(away, library)
    assert status == "warning"
    assert f"there is no {LIBRARY} here (run make native, install a platform wheel, or" in said
    assert said.endswith(": portable programs are used")
    assert said in native


PAGE = (ROOT / "docs" / "native.md").read_text()
PROJECT = PAGE.split("```cmake\n")[1].split("```")[0]
BOTH = PROJECT.replace("LANGUAGES C)", "LANGUAGES C CXX)").replace(
    "REQUIRED)", "REQUIRED COMPONENTS static)"
) + (
    "add_executable(app_static generate.c)\n"
    "target_link_libraries(app_static PRIVATE gemma3::gemma3_static)\n"
)


def tokens_of(program: Path, toy: Path, installed: Path) -> list[int]:
    """What a program that was linked prints, with the plugin of the environment."""
    said = run(program, toy, TOKENS, COUNT, cwd=program.parent, VIRTUAL_ENV=str(installed))
    return [int(token) for token in said.split()]


@pytest.mark.parametrize("tree", ["wheel", "make native"])
@pytest.mark.parametrize("project", [PROJECT, BOTH], ids=["as documented", "static too"])
def test_a_cmake_project_of_few_lines_links_the_library(
    installed: Path, toy: Path, tmp_path: Path, tree: str, project: str
):
    asked = (installed / "bin" / "python", "-m", "gemma3_export.native", "--cmake-dir")
    where = run(*asked, cwd=tmp_path).strip()
    if tree == "make native":
        run(BIN / "cmake", "--install", build("tests"), "--prefix", tmp_path / "tree", cwd=tmp_path)
        where = tmp_path / "tree" / "lib" / "cmake" / "gemma3"
    (tmp_path / "CMakeLists.txt").write_text(project)
    shutil.copy(EXAMPLES / "generate.c", tmp_path)
    run(BIN / "cmake", "-S", ".", "-B", "build", f"-Dgemma3_DIR={where}", cwd=tmp_path)
    run(BIN / "cmake", "--build", "build", cwd=tmp_path)
    for name in ("app", "app_static")[: 1 + (project == BOTH)]:
        program = tmp_path / "build" / name
        assert tokens_of(program, toy, installed) == reference_greedy(PROMPT, COUNT), name
        assert ("libgemma3" in run("ldd", program, cwd=tmp_path)) == (name == "app")


def test_another_version_and_a_static_library_without_openssl_are_refused(
    prefix: Path, tmp_path: Path
):
    where = f"-Dgemma3_DIR={prefix / 'lib' / 'cmake' / 'gemma3'}"
    configure = (BIN / "cmake", "-S", ".", "-B", "build", "--fresh", where)
    (tmp_path / "generate.c").write_text("int main(void) { return 0; }\n")
    (tmp_path / "CMakeLists.txt").write_text(BOTH.replace("gemma3 0.1 ", "gemma3 0.2 "))
    assert f"version: {VERSION}" in run(*configure, cwd=tmp_path, status=1)
    no_openssl = "-DCMAKE_DISABLE_FIND_PACKAGE_OpenSSL=ON"
    (tmp_path / "CMakeLists.txt").write_text(BOTH)
    said = run(*configure, no_openssl, cwd=tmp_path, status=1)
    said = " ".join(said.split())  # CMake breaks lines
    assert "gemma3::gemma3_static needs what the library was built with: OpenSSL 3, libpng" in said
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    run(*configure, no_openssl, cwd=tmp_path)


def test_pkg_config_gives_what_a_compiler_needs(installed: Path, toy: Path, tmp_path: Path):
    asked = (installed / "bin" / "python", "-m", "gemma3_export.native", "--pkg-config-dir")
    where = run(*asked, cwd=tmp_path).strip()
    asked = ("pkg-config", "--cflags", "--libs", f"gemma3 = {VERSION}")
    flags = run(*asked, cwd=tmp_path, PKG_CONFIG_PATH=where).split()
    run("cc", EXAMPLES / "generate.c", *flags, "-o", "app", cwd=tmp_path)
    assert tokens_of(tmp_path / "app", toy, installed) == reference_greedy(PROMPT, COUNT)


TEXT = "Once upon a time"


def text_of(installed: Path, bundle: Path, count: int) -> str:
    """What gemma3-run of the wheel goes on with after TEXT."""
    words = (installed / "bin" / "gemma3-run", bundle, "--prompt", TEXT, "--max-new-tokens", count)
    return run(*words, cwd=installed).strip()


def documented() -> list[str]:
    """The command lines of the page that compile an example."""
    text = (ROOT / "runtime" / "native" / "README.md").read_text()
    return re.findall(r"`((?:cc|c\+\+|rustc) [^`]+)`", text)


@pytest.mark.parametrize("line", documented(), ids=lambda line: line.split()[0])
def test_documented_lines_run_as_they_stand(
    installed: Path, prefix: Path, toy: Path, tmp_path: Path, line: str
):
    """In a folder with the examples and build/native in it, and without LD_LIBRARY_PATH."""
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "native").symlink_to(prefix)
    for example in EXAMPLES.iterdir():
        shutil.copy(example, tmp_path)
    run("sh", "-c", line, cwd=tmp_path)
    name = next(name for name in ("text", "session", "generate") if f"{name}." in line)
    if name == "text":
        said = run(tmp_path / name, toy, TEXT, "24", cwd=tmp_path, VIRTUAL_ENV=str(installed))
        assert said.strip() == text_of(installed, toy, 24)
    else:
        assert tokens_of(tmp_path / name, toy, installed) == reference_greedy(PROMPT, COUNT)


def test_the_quick_start_in_c_runs_as_it_stands(
    installed: Path, prefix: Path, toy: Path, tmp_path: Path
):
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "native").symlink_to(prefix)
    (tmp_path / "runtime").symlink_to(ROOT / "runtime")
    (tmp_path / "bundle").symlink_to(toy)
    block = (ROOT / "README.md").read_text().split("C\n\n```\nmake native\n")[1].split("```")[0]
    assert block.count(f'"{TEXT}" 64') == 1
    block = block.replace(f'"{TEXT}" 64', f'"{TEXT}" 24')  # the toy has room for no more
    said = run("sh", "-ec", block, cwd=tmp_path, VIRTUAL_ENV=str(installed))
    assert said.strip() == text_of(installed, toy, 24)


def test_the_documented_lines_are_found():
    assert [line.split()[0] for line in documented()] == ["cc", "cc", "c++", "rustc"]
    assert len(PROJECT.splitlines()) == 5


def test_headers_are_found_where_pip_puts_what_a_build_requires(tmp_path: Path):
    """In no site-packages of the Python that runs, but where it imports from."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty", cwd=tmp_path)
    python, script = tmp_path / "empty" / "bin" / "python", "runtime/native/find_header.py"
    ask = (python, ROOT / script, "xla/ffi/api/ffi.h")
    assert run(*ask, cwd=tmp_path, status=1) == (
        "error: no installed wheel brings xla/ffi/api/ffi.h: expected jaxlib; "
        "run: pip install jaxlib\n"
    )
    header = tmp_path / "overlay" / "jaxlib" / "include" / "xla" / "ffi" / "api" / "ffi.h"
    header.parent.mkdir(parents=True)
    header.touch()
    said = run(*ask, cwd=tmp_path, PYTHONPATH=str(tmp_path / "overlay"))
    assert said.strip() == str(header.parents[3])


def test_without_a_compiler_the_wheel_is_of_python_alone_and_says_so(tmp_path: Path):
    compilers = {"CC": "false", "CXX": "false"}
    wheel = build_wheel(tmp_path / "out", f"build-dir={tmp_path / 'build'}", **compilers)
    assert wheel.name == f"gemma3_export-{VERSION}-py3-none-any.whl"
    environment = install(wheel, tmp_path / "environment")
    assert run(environment / "bin" / "gemma3-run", "--version", cwd=tmp_path).endswith(
        VERSION + "\n"
    )
    python = (environment / "bin" / "python", "-m", "gemma3_export.native", "--prefix")
    for command in ((environment / "bin" / "gemma3-host", "bundle"), python):
        said = run(*command, cwd=tmp_path, status=2)
        assert said.startswith("error: this installation has no native host: expected what is")
        assert said.count("\n") == 1


def test_an_sdist_has_what_wheels_are_built_from(tmp_path: Path):
    run(*BUILD, "--sdist", "--outdir", tmp_path, ".", cwd=ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    root = f"gemma3_export-{VERSION}"
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(f"{root}/") for name in archive.getnames()}
    sources = subprocess.run(
        [
            "git",
            "ls-files",
            "-co",
            "--exclude-standard",
            "artifacts",
            "export",
            "gemma3_export",
            "model",
            "runtime",
            "docs",
            "pyproject.toml",
            "LICENSE",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(sources) > 300
    assert set(sources) - names == set()
    assert not [name for name in names if name.startswith(("tests/", ".venv", "build/"))]
