"""What opening a model does to the process, what it logs, and plugins that are in it already."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle

from ..runtime.toy_bundle import Toy, make_toy_bundle
from ..runtime.toy_model import reference_greedy
from .library import NOT_FOUND, PLUGINS, USAGE, build, call, environment, serve

NO_CACHE, KEEP_ENVIRONMENT, KEEP_MEMORY = 1, 16, 32
ERROR, WARNING, INFO, DEBUG = 1, 2, 3, 4
TEXT = [2, 17, 18]


@pytest.fixture(scope="module")
def library() -> Path:
    return build("tests") / "libgemma3.so"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy = Toy(batch=(1, 4), prefill=(4, 8))
    return make_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy", toy)


def opening(bundle: Path, **values) -> list:
    return call("open", **{"bundle": str(bundle), "flags": NO_CACHE, **values})


def generated(replies, index: int) -> list[int]:
    return replies.value(index)[0]["tokens"]


@pytest.mark.parametrize("kept", [False, True])
def test_the_plugin_reads_xla_flags_only_where_the_environment_is_left_alone(
    library: Path, bundle: Path, tmp_path: Path, kept: bool
) -> None:
    flags = NO_CACHE | (KEEP_ENVIRONMENT if kept else 0)
    replies = serve(
        library,
        opening(bundle, flags=flags),
        call("generate", [TEXT], 4),
        call("remarks"),
        XLA_FLAGS=f"--xla_dump_to={tmp_path / 'dump'}",
        TF_CPP_MIN_LOG_LEVEL="3",
    )
    assert generated(replies, 1) == reference_greedy(TEXT, 4)
    assert (tmp_path / "dump").exists() == kept
    assert any("XLA_FLAGS" in remark for remark in replies.value(2)) == (not kept)


def test_flags_that_xla_does_not_know_are_then_the_callers_business(
    library: Path, bundle: Path
) -> None:
    requests = [opening(bundle, flags=NO_CACHE | KEEP_ENVIRONMENT)]
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "binding.py", library],
        input=json.dumps(requests), capture_output=True, text=True, check=False, timeout=100,
        env=environment(XLA_FLAGS="--no_such_flag=1"),
    )  # fmt: skip
    assert done.returncode != 0
    assert "no_such_flag" in done.stderr


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_cpu_plugin_computes_with_the_threads_that_were_asked_for(
    plugin: str, library: Path, bundle: Path
) -> None:
    counts = {}
    for threads in (1, 7):
        replies = serve(
            library,
            opening(bundle, mesh="1x1", plugin=str(PLUGINS[plugin]), threads=threads),
            call("generate", [TEXT], 4),
            call("threads"),
            call("environment", "PJRT_NPROC"),
            call("remarks"),
        )
        assert generated(replies, 1) == reference_greedy(TEXT, 4)
        counts[threads] = replies.value(2)
        assert replies.value(3) is None
        assert replies.value(4) == []
    assert counts[7] - counts[1] >= 6, counts


def test_a_number_of_threads_that_the_plugin_is_not_told_is_remarked_on(
    library: Path, bundle: Path
) -> None:
    replies = serve(
        library,
        opening(bundle, threads=3, flags=NO_CACHE | KEEP_ENVIRONMENT),
        call("remarks"),
        opening(bundle, threads=2**31),
    )
    assert replies.value(1) == [
        "threads: 3 compile, and the plugin is not told: that for cpu reads it from the "
        "environment alone"
    ]
    assert replies.refused(2) == "threads: expected at most 2147483647, got 2147483648"


@pytest.mark.parametrize("level", [0, ERROR, WARNING, INFO, DEBUG])
def test_the_log_is_told_what_is_important_enough(library: Path, bundle: Path, level: int) -> None:
    replies = serve(
        library,
        opening(bundle, mesh="1x1", log_level=level),
        call("script", 1, [call("prefill", [TEXT], max_new_tokens=2), call("generate")]),
        call("remarks"),
        call("remark_levels"),
        XLA_FLAGS="--xla_dump_to=nowhere",
    )
    least = level or INFO
    assert set(replies.value(3)) == set(range(WARNING, least + 1))
    remarks = replies.value(2)
    assert any("xla_cpu_pjrt.so: PJRT API 0.81, cpu, 1 device" in one for one in remarks) == (
        least >= INFO
    )
    compiled = [one for one in remarks if "(portable) was compiled in" in one]
    assert len(compiled) == (2 if least >= INFO else 0)
    assert ("session of 1 rows: batch 1, cache 64" in remarks) == (least >= DEBUG)


def test_a_second_failure_at_once_is_an_error_in_the_log(library: Path, tmp_path: Path) -> None:
    """Programs are compiled together: the first that fails ends the call, the others are told."""
    toy = make_toy_bundle(tmp_path / "toy", Toy(batch=(1, 2, 3, 4), prefill=(4, 8)))
    for program in Bundle.open(toy).manifest.programs[
        1:
    ]:  # the first is looked at when it is opened
        path = toy / program.stablehlo
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    replies = serve(
        library,
        opening(toy, threads=8, log_level=ERROR),
        *[call("timed", None, "compile")] * 40,
        call("remark_levels"),
        call("remarks"),
    )
    assert replies.value(0) is None
    assert set(replies.value(-2)) == {ERROR}
    assert all("contents changed" in remark for remark in replies.value(-1))


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_that_is_in_the_process_is_taken_by_its_interface(
    plugin: str, library: Path, bundle: Path
) -> None:
    path = str(PLUGINS[plugin])
    replies = serve(
        library,
        opening(bundle, mesh="1x1", pjrt_api=path),
        call("generate", [TEXT], 4),
        call("info"),
        call("check", bundle=str(bundle), pjrt_api=path),
        opening(bundle, pjrt_api=path, plugin=path),
        call("open", bundle=str(bundle), pjrt_api=path, platform="tpu"),
        XLA_FLAGS="--no_such_flag=1",
    )
    assert generated(replies, 1) == reference_greedy(TEXT, 4)
    assert Path(replies.value(2)["plugin"]).samefile(path)
    assert replies.value(3)["loads"]
    assert replies.refused(4) == "options: expected `plugin` or `pjrt_api`, got both"
    assert "expected a plugin for tpu, got one for cpu" in replies.refused(5, USAGE)


def test_freed_memory_is_left_to_the_allocator_where_asked(library: Path, bundle: Path) -> None:
    """What compiling took is given back to the system, unless told not to."""
    resident = {}
    for flags in (0, KEEP_MEMORY):
        replies = serve(
            library,
            opening(bundle, mesh="1x1", flags=NO_CACHE | flags),
            call("generate", [TEXT], 4),
            call("resident"),
        )
        assert generated(replies, 1) == reference_greedy(TEXT, 4)
        resident[flags] = replies.value(2)
    assert resident[KEEP_MEMORY] > resident[0] + (8 << 20), resident


def test_kernels_and_plugins_that_are_not_there_are_not_found(library: Path, bundle: Path) -> None:
    replies = serve(
        library,
        opening(bundle, plugin="/no/such/plugin.so"),
        call("find_plugin", "cpu"),
        call("find_plugin", "tpu"),
        VIRTUAL_ENV=str(bundle),
        HOME=str(bundle),
    )
    assert "expected a PJRT plugin" in replies.refused(0, NOT_FOUND)
    assert replies.value(1).endswith(".so")
    assert "no PJRT plugin for tpu" in replies.refused(2, NOT_FOUND)
