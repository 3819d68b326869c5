"""Manifests that are hostile beyond wrong fields: both runtimes refuse the same, and soon."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError

from ..runtime.toy_bundle import Toy, make_toy_bundle
from .library import build, call, serve

SOON = 20.0
"""Seconds, on a busy machine. What is quadratic in 16 MiB takes minutes."""


def deep(count: int) -> list:
    value: list = []
    for _ in range(count - 1):
        value = [value]
    return value


def nested(manifest: dict, count: int) -> None:
    manifest["model"]["config"]["x"] = deep(count - 3)  # it lies in three objects


def tokens(manifest: dict, **ids: object) -> None:
    manifest["model"].update(ids)


def axes(manifest: dict, count: int) -> None:
    named = [{"name": f"a{index}", "size": 2**62} for index in range(count)]
    manifest["meshes"][0]["mesh"]["axes"] = named


def keys(manifest: dict) -> bytes:
    many = ",".join(f'"{index}":1' for index in range(300_000))
    text = json.dumps(manifest)
    return f'{{"x": {{{many},"299999":2}}, {text[1:]}'.encode()


# How a manifest is changed, and what is said of it.
HOSTILE: dict[str, tuple[Callable[[dict], object], str]] = {
    "a byte 0 behind it": (lambda m: json.dumps(m).encode() + b"\0", "text that is not ("),
    "more behind a byte 0": (lambda m: json.dumps(m).encode() + b"\0{}", "text that is not ("),
    "too deep": (lambda m: nested(m, 201), "values nested too deep"),
    "a key twice of many": (keys, 'key "299999" given twice'),
    "axes": (lambda m: axes(m, 200_000), ".axes: expected at most 20, got 200000"),
    "an array of many": (
        lambda m: m["programs"][0].update(aliases=[{"argument": 10**6, "result": 0}] * 300_000),
        "aliases",
    ),
    "a token beyond 32 bits": (
        lambda m: tokens(m, eos_token_ids=[1, 2**32 + 5]),
        "model.eos_token_ids: expected at most 2147483647, got 4294967301",
    ),
    "a first token beyond 32 bits": (
        lambda m: tokens(m, bos_token_id=2**32 + 2),
        "model.bos_token_id: expected at most 2147483647, got 4294967298",
    ),
    "a padding token beyond 32 bits": (
        lambda m: tokens(m, pad_token_id=-(2**31) - 1),
        "model.pad_token_id: expected at least -2147483648, got -2147483649",
    ),
}
SOUND: dict[str, Callable[[dict], object]] = {
    "as deep as may be": lambda m: nested(m, 200),
    "no padding": lambda m: tokens(m, pad_token_id=-1),
    "many ends": lambda m: tokens(m, eos_token_ids=list(range(300_000))),
    "many caches": lambda m: m["caches"].extend(
        {"cache": 100 + index, "layers": [], "state": []} for index in range(200_000)
    ),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "toy"
    return make_toy_bundle(folder, Toy(batch=(1,), prefill=(4,), caches=(32,)))


@pytest.fixture
def manifest(toy: Path):
    """Writes manifests of the toy; what it was is put back at the end."""
    path = toy / "manifest.json"
    before = path.read_bytes()

    def write(change: Callable[[dict], object]) -> None:
        value = json.loads(before)
        changed = change(value)
        path.write_bytes(changed if isinstance(changed, bytes) else json.dumps(value).encode())

    yield write
    path.write_bytes(before)


def in_both(toy: Path) -> tuple[str, str]:
    """What libgemma3 and Python say of the bundle, empty where they open it."""
    library = build("tests") / "libgemma3.so"
    began = time.monotonic()
    (native,) = serve(library, call("open_bundle", str(toy))).values
    try:
        Bundle.open(toy)
        python = ""
    except ArtifactError as error:
        python = str(error)
    assert time.monotonic() - began < SOON
    return native["refused"][1] if "refused" in native else "", python


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_manifests_are_refused_soon(case: str, toy: Path, manifest) -> None:
    change, said = HOSTILE[case]
    manifest(change)
    for message in in_both(toy):
        assert said in message
        assert "\n" not in message
        assert len(message) < 2000


@pytest.mark.parametrize("case", SOUND)
def test_manifests_that_are_only_unusual_are_read_soon(case: str, toy: Path, manifest) -> None:
    manifest(SOUND[case])
    assert in_both(toy) == ("", "")


def test_many_ends_of_a_text_do_not_hold_a_request_up(toy: Path, manifest) -> None:
    manifest(SOUND["many ends"])
    library = build("tests") / "libgemma3.so"
    began = time.monotonic()
    replies = serve(
        library,
        call("open", bundle=str(toy), flags=1),
        call("generate", [[2, 17, 18]], 2, ignore_eos=False),
    )
    assert len(replies.value(1)[0]["tokens"]) == 1
    assert time.monotonic() - began < SOON
