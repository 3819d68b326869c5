"""The kernels and gemma3-host under sanitizers: sound calls and runs, and hostile ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ..goldens.tiny import write_checkpoint
from ..parity.bundles import make_bundle
from ..runtime.toy_bundle import Toy, make_toy_bundle, toy_tokenizer
from . import damage
from .sanitizers import address_build, check_clean, run, thread_build

CALLS, SEED = 2000, 1
DAMAGED = 12


def fuzz(folder: Path, seed: int, calls: int) -> None:
    """Call every kernel with hostile arguments; each way of answering must have been met."""
    done = run(folder / "programs" / "fuzz_handlers", seed, calls)
    check_clean(done)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["bfloat16", "int8", "int4", "attention"]
    counts = [[int(number) for number in line[2::2]] for line in lines]
    assert sum(map(sum, counts)) == calls
    assert all(count > 0 for line in counts for count in line), done.stdout


def test_hostile_calls_of_kernels_with_the_address_sanitizer() -> None:
    fuzz(address_build(), SEED, CALLS)


@pytest.mark.soak
def test_hostile_calls_of_kernels_with_the_thread_sanitizer() -> None:
    fuzz(thread_build(), SEED, CALLS // 4)


def test_hostile_texts_chats_and_pictures_with_the_address_sanitizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(toy_tokenizer())
    noise = Image.effect_noise((40, 30), 60)
    for name, options in (("a.png", {}), ("b.jpg", {"progressive": True}), ("c.jpg", {})):
        noise.convert("RGB").save(tmp_path / name, **options)
    files = sorted(tmp_path.iterdir(), key=lambda path: path.suffix != ".model")
    done = run(address_build() / "programs" / "text_fuzz", SEED, CALLS // 10, *files)
    check_clean(done)
    counts = {line.split()[0]: line.split()[1::2] for line in done.stdout.splitlines()}
    assert list(counts) == ["open", "encode", "decode", "stream", "chat", "pictures"]
    assert all(int(count) > 10 for both in counts.values() for count in both), done.stdout


@pytest.mark.parametrize("compared", ["dots", "tiles", "layer"])
def test_every_form_of_the_kernels_with_the_address_sanitizer(compared: str) -> None:
    check_clean(run(address_build() / "programs" / f"compare_{compared}"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "toy"
    return make_toy_bundle(folder, Toy(batch=(1,), prefill=(4,), caches=(32,)))


@pytest.fixture(scope="module")
def host() -> Path:
    return address_build() / "host" / "gemma3-host"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Flags by which a program is compiled once for all tests."""
    return "--cache-dir", tmp_path_factory.mktemp("compiled")


@pytest.mark.parametrize(
    "flags",
    [
        ("--tokens", "2,17,18", "--tokens", "2,9", "--max-new-tokens", "5", "--logprobs", "2"),
        ("--prompt", "the fox \u65e5 \U0001f642", "--temperature", "0.9", "--stats"),
        ("--prompt", "a", "--chat", "--stop", "x", "--json"),
        ("--score", "--prompt", "the quick fox", "--json"),
        ("--check",),
    ],
    ids=lambda flags: " ".join(flags)[:30],
)
def test_the_host_with_the_address_sanitizer(
    flags: tuple[str, ...], host: Path, toy: Path, cache: tuple[str, Path]
) -> None:
    check_clean(run(host, toy, *flags, *cache))


def test_the_host_calls_kernels_with_the_address_sanitizer(host: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint("default", tmp_path / "checkpoint")
    bundle = make_bundle(
        checkpoint, tmp_path / "bundle", dtype="bfloat16", quantize="int4-pure", kernels=True,
        prefill=(8,),
    )  # fmt: skip
    library = address_build() / "kernels" / "libgemma3_kernels.so"
    flags = ("--tokens", "2,17,230,5,99,64,5,12,201,77", "--max-new-tokens", "4", "--json")
    done = run(host, bundle, *flags, "--no-cache", GEMMA3_KERNELS=str(library))
    check_clean(done)
    assert json.loads(done.stdout)["stats"]["variant"] == "kernels"


def test_damaged_bundles_are_refused_by_the_host_with_the_address_sanitizer(
    host: Path, toy: Path, cache: tuple[str, Path], tmp_path: Path
) -> None:
    ended = []
    for number in range(DAMAGED):
        bundle = damage.make(toy, tmp_path / str(number), number)
        done = run(host, bundle, "--prompt", "the fox", "--max-new-tokens", "3", *cache)
        check_clean(done, 0, 2)
        ended.append(done.returncode)
        if done.returncode:
            assert done.stderr.startswith("error: ")
            assert done.stderr.count("\n") == 1
    assert ended.count(2) > DAMAGED // 2
