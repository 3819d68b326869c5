"""How the C interface grows, what outputs need room for, and which status a failure has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from gemma3_export.artifacts.manifest import ProgramName

from ..runtime.toy_bundle import Toy, make_toy_bundle
from ..runtime.toy_model import LABELS, WINDOW, reference_greedy
from .library import (
    CONTEXT_FULL,
    INTEGRITY,
    NOT_FOUND,
    OUT_OF_MEMORY,
    UNKNOWN_VERSION,
    USAGE,
    build,
    call,
    serve,
)

NO_CACHE, VERIFY = 1, 4
POINTER_AND_COUNT, PROMPT, TIMING = 16, 32, 40
"""Bytes of the first two members of gemma3_prompt, of all of it, and of gemma3_timing."""
TEXTS = [[2, 17, 18], [2, 9, 40, 41, 42]]


@pytest.fixture(scope="module")
def library() -> Path:
    return build("tests") / "libgemma3.so"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Batches 1 and 4, 4,096 positions a row, or 64."""
    toy = Toy(prefill=(4,), caches=(64, 4096))
    return make_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy", toy)


def opening(bundle: Path, **values) -> list:
    return call("open", bundle=str(bundle), **{"flags": NO_CACHE, **values})


@pytest.mark.parametrize("prompt_size", [POINTER_AND_COUNT, PROMPT, 128])
@pytest.mark.parametrize("timing_size", [8, TIMING, 64])
def test_elements_of_other_headers_are_taken_at_their_own_distance(
    library: Path, bundle: Path, prompt_size: int, timing_size: int
) -> None:
    replies = serve(
        library, opening(bundle), call("strided", TEXTS, 5, prompt_size, timing_size, 0)
    )
    found = replies.value(1)
    assert found["tokens"] == [reference_greedy(text, 5) for text in TEXTS]
    written = bytes.fromhex(found["timings"])
    for index in range(len(TEXTS)):
        timing = written[index * timing_size :][:timing_size]
        assert int.from_bytes(timing[:8], "little") == sum(map(len, TEXTS))  # prefill_tokens
        assert timing[TIMING:] == bytes(max(timing_size - TIMING, 0))
    assert written[len(TEXTS) * timing_size :] == b"\xaa" * 8


def test_elements_without_a_size_or_with_unknown_members_are_refused(
    library: Path, bundle: Path
) -> None:
    replies = serve(
        library,
        opening(bundle),
        call("strided", TEXTS, 5, PROMPT + 8, TIMING, 1),
        call("strided", TEXTS, 5, 1 << 13, TIMING, 0),
        call("strange", "request", prompt_size=0),
        call("strided", TEXTS, 5, PROMPT, 1 << 13, 0),
    )
    assert replies.refused(1) == "prompt_size: has members that this library lacks"
    expected = "expected the size of an element of the array, got"
    assert replies.refused(2) == f"prompt_size: {expected} 8192"
    assert replies.refused(3) == f"prompt_size: {expected} 0"
    assert replies.refused(4) == f"timing_size: {expected} 8192"


def test_sizes_of_a_model_are_those_of_its_manifest(
    library: Path, bundle: Path, tmp_path: Path
) -> None:
    reading = (ProgramName.CLASSIFY, ProgramName.EMBED)
    texts = make_toy_bundle(tmp_path / "texts", Toy(programs=reading, batch=(2,), prefill=(4, 20)))
    replies = serve(
        library,
        opening(bundle, mesh="1x1"),
        call("sizes"),
        call("few_sizes", 16),
        call("few_sizes", 4),
        opening(texts),
        call("sizes"),
    )
    sizes = replies.value(1)
    assert (sizes["vocab_size"], sizes["sliding_window"], sizes["batch"]) == (384, WINDOW, 4)
    positions = [sizes[f"{name}positions"] for name in ("", "stepping_", "score_", "image_")]
    assert positions == [4096, 4096, 4096, 0]
    assert sizes["devices"] == 1
    assert replies.value(2) == [16, 384, -1, -1]  # nothing beyond its 16 bytes is written
    assert replies.refused(3) == "sizes: set `size` to the size of the struct"
    sizes = replies.value(5)
    assert (sizes["labels"], sizes["embedding_size"]) == (len(LABELS), 16)
    assert [sizes["classify_positions"], sizes["embed_positions"]] == [64, 20]
    assert (sizes["positions"], sizes["batch"]) == (0, 0)


def test_outputs_without_room_are_refused_with_what_they_need(
    library: Path, bundle: Path, tmp_path: Path
) -> None:
    reading = (ProgramName.CLASSIFY, ProgramName.EMBED)
    texts = make_toy_bundle(tmp_path / "texts", Toy(programs=reading, batch=(2,), prefill=(4, 20)))
    steps = [call("prefill", TEXTS, max_new_tokens=3), call("decode", capacity=1), call("rows")]
    replies = serve(
        library,
        opening(bundle),
        call("score", TEXTS, capacity=5),
        call("script", 2, steps),
        call("stats"),
        opening(texts),
        call("classify", TEXTS, 2),
        call("embed", TEXTS, 15),
        call("stats"),
    )
    assert replies.values[1]["refused"] == [USAGE, "logprobs: expected room for 6, got 5", 6]
    _, decoded, rows = replies.value(2)
    assert decoded == [USAGE, "next: expected room for 2, got 1", 2]
    assert [row["position"] for row in rows] == [3, 5]
    assert replies.values[5]["refused"] == [USAGE, "scores: expected room for 6, got 4", 6]
    assert replies.values[6]["refused"] == [USAGE, "vectors: expected room for 32, got 30", 32]
    assert replies.value(7)["calls"] == 0


def damaged(bundle: Path, folder: Path, change: str) -> Path:
    """A copy of a bundle of another version, or with other weights than its digests say."""
    copy = Path(shutil.copytree(bundle, folder / change))
    if change == "version":
        manifest = json.loads((copy / "manifest.json").read_text())
        (copy / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    else:
        weights = copy / "weights" / "model.safetensors"
        data = weights.read_bytes()
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return copy


def test_statuses_tell_kinds_of_failures_apart(library: Path, bundle: Path, tmp_path: Path) -> None:
    text = [2, 17, 18]
    long = [[2] * 4097]
    large = make_toy_bundle(tmp_path / "large", Toy(batch=(1,), prefill=(4,), caches=(1 << 20,)))
    steps = [
        call("prefill", [[2] * 4096], max_new_tokens=1),
        call("decode"),
        call("prefill", [[5]], max_new_tokens=1),
        call("truncate", 0, 4097),
    ]
    cases = [
        (call("open_bundle", str(tmp_path)), NOT_FOUND, "a folder without manifest.json"),
        (opening(bundle, mesh="9x9"), NOT_FOUND, "expected a mesh of the bundle"),
        (opening(bundle, platform="tpu"), NOT_FOUND, "expected a platform"),
        (opening(bundle, plugin="/no/such.so"), NOT_FOUND, "expected a PJRT plugin"),
        (call("bundle_file", "none"), NOT_FOUND, "expected a file of the manifest"),
        (call("verify_signature", "/no/such/key"), NOT_FOUND, "it cannot be read"),
        (
            call("open_bundle", str(damaged(bundle, tmp_path, "version"))),
            UNKNOWN_VERSION,
            "expected format version",
        ),
        (
            opening(damaged(bundle, tmp_path, "weights"), flags=VERIFY),
            INTEGRITY,
            "contents changed",
        ),
        (opening(bundle, manifest_sha256="1" * 64), INTEGRITY, "expected SHA-256 111"),
        (call("generate", [text], 4094), CONTEXT_FULL, "does not fit"),
        (call("score", long), CONTEXT_FULL, "does not fit"),
    ]
    replies = serve(
        library,
        call("open_bundle", str(bundle)),
        opening(bundle),
        *(request for request, _, _ in cases),
        call("script", 1, steps),
        opening(large),
        call("script", 1, [call("prefill", [text], max_new_tokens=1), call("starved")]),
    )
    for index, (request, status, said) in enumerate(cases, 2):
        assert said in replies.refused(index, status), request
    found = [reply[0] for reply in replies.value(-3)[1:]]
    assert found == [CONTEXT_FULL, CONTEXT_FULL, USAGE]
    assert replies.value(-1)[1] == [OUT_OF_MEMORY, "out of memory", 0]
