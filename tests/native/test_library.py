"""libgemma3 through its C interface: the same as the Python runtime, on toy bundles."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.runtime.loading.buckets import Shape
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.classify import classify
from gemma3_export.runtime.requests.embed import embed
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters
from gemma3_export.runtime.requests.score import score
from gemma3_export.runtime.requests.session import Session

from ..runtime.toy_bundle import Toy, make_toy_bundle
from ..runtime.toy_model import EMBED, LABELS, reference_greedy
from .library import CONTEXT_FULL, NOT_FOUND, PLUGINS, ROOT, USAGE, build, call, serve

HEADERS = sorted((ROOT / "runtime" / "native" / "include").glob("*.h"))
SEEDED = {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "min_p": 0.01, "seed": 7}
# Around the prefill sizes 4 and 16, the window of 8 and the cache of 64.
LENGTHS = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40)


@pytest.fixture(scope="module")
def library() -> Path:
    return build("tests") / "libgemma3.so"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy bundle for meshes 1x1 and 2x4, batches 1 and 4, 64 positions a row."""
    return make_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy", Toy(meshes=("1x1", "2x4")))


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> LoadedModel:
    """The bundle in the Python runtime; meshes do not change tokens (tests/runtime)."""
    return LoadedModel.load(bundle, "1x1")


def prompt(length: int) -> list[int]:
    return [2, *(6 + (7 * i + length) % 300 for i in range(length - 1))]


def test_the_library_is_small_and_exports_its_interface_only(library: Path) -> None:
    assert library.stat().st_size < 2e6
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    declared = {
        word.split("(")[0].lstrip("*")
        for header in HEADERS
        for word in header.read_text().split()
        if word.lstrip("*").startswith("gemma3_") and "(" in word
    }
    assert names == {name for name in names if name.startswith("gemma3_")}
    assert names <= declared
    assert len(names) > 30


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.name)
@pytest.mark.parametrize("compiler", ["gcc -std=c11 -x c", "g++ -std=c++17 -x c++"])
def test_headers_are_strict_c_and_cxx(compiler: str, header: Path) -> None:
    flags = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only"]
    subprocess.run([*compiler.split(), *flags, header], check=True)


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_tokens_are_those_of_the_python_runtime(
    mesh: str, plugin: str, library: Path, bundle: Path, loaded: LoadedModel
) -> None:
    lengths = LENGTHS if mesh == "1x1" else (5, 17)
    requests = [([prompt(n)], 20, sampling) for n in lengths for sampling in ({}, SEEDED)]
    requests.append(([prompt(n) for n in (3, 21, 8)], 9, SEEDED))
    requests.append(([prompt(n) for n in range(1, 7)], 5, {}))
    replies = serve(
        library,
        call("open", bundle=str(bundle), mesh=mesh, plugin=str(PLUGINS[plugin])),
        *(call("generate", texts, n, sampling=s) for texts, n, s in requests),
        call("stats"),
    )
    for index, (texts, count, sampling) in enumerate(requests, 1):
        expected = generate(
            loaded, texts, SamplingParameters(**sampling), max_new_tokens=count, ignore_eos=True
        )
        found = [row["tokens"] for row in replies.value(index)]
        assert found == [row.tokens for row in expected]
    stats = replies.value(-1)
    assert stats["donated_in_place"] == stats["calls"] > 0
    if mesh == "1x1":
        assert stats["weights"]["copied_bytes"] == 0
    if plugin == "xla_cpu_pjrt":  # the other one warns of partitioned modules, whatever it is told
        assert replies.stderr == ""


def test_likeliest_tokens_and_scores_are_those_of_the_python_runtime(
    library: Path, bundle: Path, loaded: LoadedModel
) -> None:
    texts = [prompt(20), prompt(2)]
    replies = serve(
        library, call("open", bundle=str(bundle), mesh="1x1"),
        call("generate", texts[:1], 6, logprobs=4), call("score", texts),
    )  # fmt: skip
    expected = generate(
        loaded, texts[:1], SamplingParameters(), max_new_tokens=6, ignore_eos=True, logprobs=4
    )[0]
    found = replies.value(1)[0]
    assert found["tokens"] == expected.tokens
    assert expected.logprobs is not None
    for ours, theirs in zip(found["top"], expected.logprobs, strict=True):
        assert [token for token, _ in ours] == [token for token, _ in theirs]
        np.testing.assert_allclose([p for _, p in ours], [p for _, p in theirs], atol=1e-5)
    scores = score(loaded, texts)
    flat = [value for row in scores for value in row.logprobs]
    np.testing.assert_allclose(replies.value(2)["logprobs"], flat, atol=1e-5)
    np.testing.assert_allclose(replies.value(2)["losses"], [row.loss for row in scores], atol=1e-5)


def test_classes_and_vectors_are_those_of_the_python_runtime(library: Path, tmp_path: Path) -> None:
    texts = [prompt(n) for n in (3, 17, 9)]
    for program, width in ((ProgramName.CLASSIFY, len(LABELS)), (ProgramName.EMBED, EMBED)):
        made = make_toy_bundle(
            tmp_path / program, Toy(programs=(program,), batch=(2,), prefill=(4, 20))
        )
        reading = classify if program is ProgramName.CLASSIFY else embed
        expected = reading(LoadedModel.load(made, "1x1"), texts)
        replies = serve(
            library, call("open", bundle=str(made)), call(str(program), texts, width),
            call("generate", texts, 3),
        )  # fmt: skip
        np.testing.assert_allclose(replies.value(1), expected, atol=1e-5)
        assert f"has only these programs: {program}" in replies.refused(2)


def test_stop_tokens_end_a_row_and_a_callback_may_too(library: Path, bundle: Path) -> None:
    text = [prompt(6)]
    replies = serve(
        library, call("open", bundle=str(bundle), mesh="1x1"), call("generate", text, 12),
        call("generate", text, 12, finish_at=5, chunk=3),
    )  # fmt: skip
    tokens = replies.value(1)[0]["tokens"]
    assert replies.value(1)[0]["finish"] == 2  # length
    assert replies.value(2)[0]["tokens"] == tokens[:5]
    # More stop tokens than the device knows: the last of them is looked for by the host.
    others = [token for token in range(300, 384) if token not in tokens][:12]
    stops = [*others, tokens[4]]
    (row,) = serve(
        library,
        call("open", bundle=str(bundle), mesh="1x1"),
        call("generate", text, 12, stops=stops),
    ).value(1)
    assert row["tokens"] == tokens[: tokens.index(tokens[4]) + 1]
    assert row["finish"] == 1


def test_a_session_goes_on_as_if_it_had_been_one_text(library: Path, bundle: Path) -> None:
    first, second = prompt(9), [50, 51, 52]
    replies = serve(
        library, call("open", bundle=str(bundle), mesh="1x1"), call("turns", [first, second], 4)
    )
    begun, gone_on = replies.value(1)
    whole = serve(
        library, call("open", bundle=str(bundle), mesh="1x1"),
        call("turns", [first + begun + second], 4),
    )  # fmt: skip
    assert whole.value(1) == [gone_on]


def test_a_row_of_a_session_is_filled_to_its_last_place(library: Path, bundle: Path) -> None:
    replies = serve(
        library, call("open", bundle=str(bundle), mesh="1x1"),
        call("turns", [prompt(20)], 45), call("turns", [prompt(20)], 46),
    )  # fmt: skip
    assert replies.value(1) == [reference_greedy(prompt(20), 45)]
    assert "20 tokens and 46 new tokens do not fit after 0 tokens" in replies.refused(
        2, CONTEXT_FULL
    )


@pytest.mark.parametrize("lengths", [(9, 3), (1, 16), (17, 1), (5, 4)])
def test_turns_of_a_conversation_are_those_of_the_python_runtime(
    lengths: tuple[int, int], library: Path, bundle: Path, loaded: LoadedModel
) -> None:
    texts = [prompt(length) for length in lengths]
    session, expected = Session(loaded, Shape(1, 64), SamplingParameters()), []
    for text in texts:
        expected.append(session.prefill([text], 6).tokens[0])
        for step in session.generate():
            expected[-1] += step.tokens[0]
    replies = serve(library, call("open", bundle=str(bundle), mesh="1x1"), call("turns", texts, 6))
    assert replies.value(1) == expected


def test_xla_flags_of_the_caller_cannot_end_the_process(library: Path, bundle: Path) -> None:
    flags = "--no_such_flag=1 --xla_force_host_platform_device_count=3"
    replies = serve(
        library,
        call("open", bundle=str(bundle), mesh="1x1"),
        call("environment", "XLA_FLAGS"),
        call("environment", "TF_CPP_MIN_LOG_LEVEL"),
        call("generate", [prompt(5)], 4),
        call("remarks"),
        XLA_FLAGS=flags,
    )
    assert replies.value(1) == flags
    assert replies.value(2) is None
    assert len(replies.value(3)[0]["tokens"]) == 4
    assert any("XLA_FLAGS" in remark for remark in replies.value(4))
    assert replies.stderr == ""


def test_check_says_whether_a_bundle_loads_before_it_is_loaded(
    library: Path, bundle: Path, tmp_path: Path
) -> None:
    abstract = make_toy_bundle(tmp_path / "abstract", Toy(abstract=True, batch=(1,), prefill=(4,)))
    good, mesh, weights, plugin = (
        reply["value"]
        for reply in serve(
            library,
            call("check", bundle=str(bundle), mesh="2x4"),
            call("check", bundle=str(bundle), mesh="3x1"),
            call("check", bundle=str(abstract)),
            call("check", bundle=str(bundle), plugin="/lib/x86_64-linux-gnu/libm.so.6"),
        ).values
    )
    assert (good["status"], good["loads"], good["problem"]) == (0, True, None)
    assert good["devices"] == {"kind": "cpu", "count": 8, "needed": 8}
    assert good["plugin"]["path"].endswith("xla_cpu_pjrt.so")
    assert good["plugin"]["api"] == "0.81"
    for report, status in ((mesh, NOT_FOUND), (weights, USAGE), (plugin, NOT_FOUND)):
        assert (report["status"], report["loads"]) == (status, False)
        assert report["problem"] == report["message"]
    assert "expected a mesh of the bundle (1x1, 2x4), got 3x1" in mesh["message"]
    assert "--abstract" in weights["message"]
    assert "without GetPjrtApi" in plugin["message"]


# What a caller may get wrong, and what is said of it at once and in one line.
STRANGE = [
    ("session", {"rows": 2**32 - 1}, "rows: expected at most 4 in one session, got 4294967295"),
    ("session", {"rows": 5}, "rows: expected at most 4 in one session, got 5"),
    ("session", {"flags": 4}, "options.flags: has flags that this library lacks"),
    ("request", {"flags": 2}, "request.flags: has flags that this library lacks"),
    ("request", {"flags": 2**63}, "request.flags: has flags that this library lacks"),
    ("request", {"size": 2**62}, "request: set `size` to the size of the struct"),
    ("request", {"size": 4097}, "request: set `size` to the size of the struct"),
]


def test_strange_requests_are_refused(library: Path, bundle: Path) -> None:
    replies = serve(
        library,
        call("open", bundle=str(bundle), flags=1),
        *(call("strange", what, **values) for what, values, _ in STRANGE),
        call("strange", "session", rows=4),
        call("strange", "request", size=4096),
        call("open", bundle=str(bundle), mesh="a\nb\x1b[1m"),
    )
    for index, (_, _, said) in enumerate(STRANGE, 1):
        assert replies.refused(index).startswith(said)
    assert replies.value(-3) is None
    assert replies.value(-2) is None
    assert r"got a\nb\x1b[1m; re-export" in replies.refused(-1, NOT_FOUND)
