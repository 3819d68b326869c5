"""The native host's tokenizer takes what the Python runtime takes, gives what it gives and refuses
the rest with its words, under the address and undefined behaviour sanitizers."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest
from gemma3_export.artifacts.errors import ArtifactError, one_line
from gemma3_export.runtime.text.tokenizer import Tokenizer

from ..runtime.toy_bundle import BOS, toy_tokenizer
from .sanitizers import check_clean
from .tokenizer_models import HARMLESS, HOSTILE, damaged

FOLDER = Path(__file__).parents[2] / "runtime" / "native" / "text"
SOURCES = ("bpe.cc", "tokenizer.cc", "tokenizer_model.cc", "unicode.cc")
DAMAGED = 1500
TEXT = "the quick <start_of_turn> brown fox \u00e9\u65e5 XY aaa QQQ\n  dog <0x41>\u2581z"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fuzz program; of the library and of other parts of the host it needs nothing."""
    path = tmp_path_factory.mktemp("fuzz") / "tokenizer_fuzz"
    source = Path(__file__).parent / "programs" / "tokenizer_fuzz.cc"
    subprocess.run(
        [os.environ.get("CXX", "c++"), "-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror",
         "-fsanitize=address,undefined", "-fno-omit-frame-pointer", source,
         *(f"-I{FOLDER.parent / name}" for name in ("text", "include", "src")),
         *(FOLDER / name for name in SOURCES), "-o", path],
        check=True,
    )  # fmt: skip
    return path


def native(program: Path, pairs: list[tuple[bytes, bytes]]) -> list[str]:
    """The program's line for each model and text."""
    stdin = b"".join(struct.pack("<I", len(part)) + part for pair in pairs for part in pair)
    done = subprocess.run([program], input=stdin, capture_output=True, check=False, timeout=600)
    text = subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")
    )
    check_clean(text)
    return text.stdout.split("\n")[:-1]


def python(model: bytes, text: str) -> str:
    """The same line from the Python runtime."""
    try:
        tokenizer = Tokenizer(model, Path("m"), BOS)
    except ArtifactError as error:
        return one_line(str(error))
    ids = tokenizer.encode(text, add_bos=True)
    decoder = tokenizer.decoder(shows_special=True)
    decoded = "".join(map(decoder.push, [*ids, *range(-1, 600)])) + decoder.close()
    return " ".join(map(str, ids)) + " " + decoded.encode().hex()


def check_same(program: Path, models: list[bytes], text: str = TEXT) -> list[str]:
    lines = native(program, [(model, text.encode()) for model in models])
    assert lines == [python(model, text) for model in models]
    return lines


@pytest.mark.parametrize("appended", HOSTILE, ids=[name for name, _, _ in HOSTILE])
def test_hostile_models_are_refused_by_name_in_both_runtimes(program: Path, appended):
    _, more, reason = appended
    (line,) = check_same(program, [toy_tokenizer() + more])
    assert line.startswith("tokenizer m ")
    assert reason in line
    assert line.endswith("; export the bundle again")


@pytest.mark.parametrize("appended", HARMLESS, ids=[name for name, _ in HARMLESS])
def test_models_at_the_edge_give_the_same_ids_in_both_runtimes(program: Path, appended):
    (line,) = check_same(program, [toy_tokenizer() + appended[1]])
    assert line.startswith(f"{BOS} ")


def test_damaged_models_are_refused_or_give_the_same_ids_in_both_runtimes(program: Path):
    good = [toy_tokenizer(), toy_tokenizer(steering_as_text=True)]
    models = list(damaged(good, DAMAGED, seed=3))
    refused = 0
    for model, line in zip(
        models, native(program, [(m, TEXT.encode()) for m in models]), strict=True
    ):
        expected = python(model, TEXT)
        if expected.startswith("tokenizer m "):  # of several faults each may name another
            assert line.startswith("tokenizer m ")
            refused += 1
        else:
            assert line == expected
    assert DAMAGED // 10 < refused < DAMAGED


def test_texts_that_are_not_utf8_are_refused(program: Path):
    texts = [b"\xff", b"a\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"ab\xe6\x97"]
    lines = native(program, [(toy_tokenizer(), text) for text in texts])
    assert lines == ["tokenizer m cannot encode a text that is not UTF-8"] * len(texts)


def test_random_bytes_never_harm(program: Path):
    draw = random.Random(5)
    pairs = [(toy_tokenizer(), draw.randbytes(draw.randrange(200))) for _ in range(50)]
    pairs += [(draw.randbytes(draw.randrange(1, 400)), b"text") for _ in range(300)]
    assert len(native(program, pairs)) == len(pairs)
