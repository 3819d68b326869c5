"""Tokenizers, text streams and chats of gemma3_text.h give what the Python runtime gives."""

from __future__ import annotations

import ctypes as c
import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.runtime.images.prompt import ImageTokens, encode_chat
from gemma3_export.runtime.text.chat import read_turns
from gemma3_export.runtime.text.stream import TextStream
from gemma3_export.runtime.text.tokenizer import Tokenizer

from ..goldens.tiny_vision import write_checkpoint
from ..parity.bundles import make_bundle
from ..runtime.toy_bundle import BOS, END_OF_TURN, EOS, Toy, make_toy_bundle, toy_tokenizer
from . import test_host_parts as parts
from .library import ROOT, environment
from .text_binding import (
    NO_BOS,
    PARSE_SPECIAL,
    SHOW_SPECIAL,
    WHOLE_TEXT,
    Chat,
    NativeStream,
    NativeTokenizer,
    RefusedError,
    StreamOptions,
    TextLibrary,
)

STEERING = {"<bos>": BOS, "<eos>": EOS, "<start_of_turn>": 4, "<end_of_turn>": END_OF_TURN}
IMAGE = "<start_of_image>"


@pytest.fixture(scope="module")
def library(native: Path) -> TextLibrary:
    return TextLibrary(native / "libgemma3.so")


@pytest.fixture(scope="module", params=["control", "user_defined"])
def content(request: pytest.FixtureRequest) -> bytes:
    """The toy tokenizer in its two kinds."""
    return toy_tokenizer(steering_as_text=request.param == "user_defined")


@pytest.fixture(scope="module")
def python(content: bytes) -> Tokenizer:
    return Tokenizer(content, Path("m"), BOS)


@pytest.fixture(scope="module")
def ours(library: TextLibrary, content: bytes) -> NativeTokenizer:
    return library.tokenizer(content, BOS)


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy", Toy(add_eos=True))


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a model that sees images."""
    folder = tmp_path_factory.mktemp("seeing")
    checkpoint = write_checkpoint("image_beyond_window", folder / "checkpoint")
    (checkpoint / "tokenizer.model").write_bytes(toy_tokenizer())
    return make_bundle(checkpoint, folder / "bundle", prefill=(48,), cache=(64,), images=(1,))


def refusal(use, *arguments: object, **named: object) -> str:
    """The words of a call that must be refused as the caller's mistake."""
    with pytest.raises(RefusedError) as refused:
        use(*arguments, **named)
    status, message = refused.value.args
    assert status == 2
    assert "\n" not in message
    return message


def test_ids_and_texts_are_those_of_the_python_runtime(ours: NativeTokenizer, python: Tokenizer):
    for text in parts.TEXTS[::7]:
        assert ours.encode(text) == python.encode(text, add_bos=True)
        assert ours.encode(text, NO_BOS) == python.encode(text, add_bos=False)
    for ids in parts.id_lists(python)[::3]:
        assert ours.decode(ids) == python.decode(ids)
        decoder = python.decoder(shows_special=True)
        shown = "".join(map(decoder.push, ids)) + decoder.close()
        assert ours.decode(ids, SHOW_SPECIAL) == shown


def test_control_tokens_in_a_text_are_parsed_on_request_only(
    ours: NativeTokenizer, python: Tokenizer
):
    draw = random.Random(5)
    pieces = [*STEERING, "<start_of", "_turn>", "the", " ", "<", "日", "\n"]
    for _ in range(200):
        text = "".join(draw.choices(pieces, k=draw.randint(0, 8)))
        expected = [BOS]
        for part in re.split("(" + "|".join(STEERING) + ")", text):
            whole = STEERING.get(part)
            expected += python.encode(part, add_bos=False) if whole is None else [whole]
        assert ours.encode(text, PARSE_SPECIAL) == expected
        assert not set(ours.encode(text, NO_BOS)) & set(STEERING.values())


def test_pieces_tokens_and_sizes_are_those_of_the_file(ours: NativeTokenizer, python: Tokenizer):
    assert ours.size == python.size
    for token in range(ours.size):
        piece, kind = ours.piece(token)
        assert ours.token(piece) == token
        assert (kind == 6) == bool(re.fullmatch("<0x[0-9A-F]{2}>", piece))
    assert ours.piece(EOS) == ("<eos>", 3)
    for token in (-1, ours.size, 2**31 - 1):
        assert "token: expected a piece from 0 to 319" in refusal(ours.piece, token)
    assert refusal(ours.token, "x\ny") == "piece: tokenizer in memory has no 'x\\ny'"


def test_bos_and_end_tokens_are_as_the_bundle_says(
    library: TextLibrary, toy_folder: Path, python: Tokenizer
):
    own = library.tokenizer(toy_folder)
    assert own.encode("the fox") == python.encode("the fox", add_bos=True)
    assert own.encode("the fox", WHOLE_TEXT) == [*python.encode("the fox", add_bos=True), EOS]
    plain = library.tokenizer(toy_tokenizer())  # <bos> is looked up
    assert plain.encode("a", WHOLE_TEXT) == python.encode("a", add_bos=True)
    assert library.tokenizer(toy_tokenizer(), 77).encode("") == [77]


def test_a_model_gives_what_its_bundle_gives(library: TextLibrary, native: Path, seeing: Path):
    vision = library.vision(seeing)
    record = Bundle.open(seeing).manifest.vision
    assert record is not None
    assert (vision.image_size, vision.tokens_per_image, vision.soft_token_size) == (
        record.image_size, record.tokens_per_image, record.soft_token_size,
    )  # fmt: skip
    assert (tuple(vision.mean), tuple(vision.deviation)) == (record.mean, record.std)
    program = [sys.executable, "-m", "tests.native.text_binding", native / "libgemma3.so"]
    done = subprocess.run(
        [*program, seeing, "the fox"], capture_output=True, text=True, check=False, cwd=ROOT,
        env=environment(), timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "tokens": library.tokenizer(seeing).encode("the fox"), "vision": bytes(vision).hex(),
    }  # fmt: skip


def test_a_bundle_without_tokenizer_or_eyes_is_refused(library: TextLibrary, tmp_path: Path):
    bundle = make_toy_bundle(tmp_path / "toy", Toy(batch=(1,), prefill=(4,), tokenizer=False))
    assert "names no tokenizer" in refusal(library.tokenizer, bundle)
    assert "has no encode_image program" in refusal(library.vision, bundle)


def test_a_file_that_was_exchanged_is_refused(library: TextLibrary, tmp_path: Path):
    bundle = make_toy_bundle(tmp_path / "toy", Toy(batch=(1,), prefill=(4,)))
    path = bundle / "tokenizer" / "tokenizer.model"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(RefusedError, match=r"tokenizer\.model"):
        library.tokenizer(bundle)


def streamed(stream: TextStream | NativeStream, ids: Sequence[int]) -> tuple[list[str], bool]:
    """What each push and the end showed, and whether a stop text had come before the end."""
    shown = [*map(stream.push, ids)]
    stopped = stream.stopped
    return [*shown, stream.close()], stopped


@pytest.mark.parametrize("stops", [[], ["the", "\n\n", "日本", "e", "\ufffd\ufffd"]])
@pytest.mark.parametrize("special", [False, True])
def test_streams_show_what_those_of_the_python_runtime_show(
    ours: NativeTokenizer, python: Tokenizer, stops: list[str], special: bool
):
    stream = ours.stream(stops, SHOW_SPECIAL if special else 0)
    for ids in parts.id_lists(python)[::3]:  # a flush makes the stream as when it was opened
        stream.stopped = False
        assert streamed(stream, ids) == streamed(TextStream(python.decoder(special), stops), ids)


# A text, stop texts, what each letter and the end show, whether it stopped: cases of
# tests/runtime/test_text.py.
STREAMS = [
    ("a bc", [], ["a", " ", "b", "c", ""], False),
    ("xEND more", ["END"], ["x", "", "", "", "", "", "", "", "", ""], True),
    ("ENTE", ["END"], ["", "", "ENT", "", "E"], False),
    ("abcd", ["d", "bc"], ["a", "", "", "", ""], True),
]


@pytest.mark.parametrize(("text", "stops", "shown", "stopped"), STREAMS)
def test_stop_texts_are_held_back_and_never_shown(
    ours: NativeTokenizer, text: str, stops: list[str], shown: list[str], stopped: bool
):
    letters = [ours.encode(letter, NO_BOS) for letter in text]
    stream = ours.stream(stops)
    got = ["".join(map(stream.push, ids)) for ids in letters]
    assert stream.stopped == stopped
    assert [*got, stream.close()] == shown


def test_a_character_in_bytes_is_shown_when_it_is_whole(ours: NativeTokenizer):
    ids = [ours.token(f"<0x{byte:02X}>") for byte in "日".encode()]
    stream = ours.stream()
    assert [*map(stream.push, ids)] == ["", "", "日"]
    assert [*map(stream.push, ids[:2])] == ["", ""]
    assert stream.close() == "\ufffd\ufffd"
    nul = ours.token("<0x00>")
    assert stream.push(nul) == ours.decode([nul]) == "\0"


def test_a_control_token_as_stop_text_ends_the_text_at_the_token(library: TextLibrary):
    ours = library.tokenizer(toy_tokenizer())
    the = ours.encode("the", NO_BOS)
    for flags in (0, SHOW_SPECIAL):
        stream = ours.stream(["<end_of_turn>", "thee"], flags)
        assert "".join(map(stream.push, the)) == ""
        assert (stream.push(END_OF_TURN), stream.stopped) == ("the", True)
        assert (stream.push(the[0]), stream.close()) == ("", "")
    message = refusal(ours.stream, ["x<eos>"])
    assert message.startswith("stop text 1: has the control token <eos> in it")
    assert "GEMMA3_SHOW_SPECIAL" in message


def test_streams_and_tokenizers_are_closed_in_any_order(library: TextLibrary):
    ours = library.tokenizer(toy_tokenizer())
    stream, the = ours.stream(), ours.encode("the", NO_BOS)
    del ours
    assert "".join(map(stream.push, the)) + stream.close() == "the"


CHATS: list[list[tuple[str, str]]] = [
    [("user", " the fox\n")],
    [("system", " be brief "), ("user", "hi"), ("assistant", "hello <end_of_turn>"), ("user", "x")],
    [("user", "a"), ("model", "b"), ("user", "日本 \u3000")],
    [("user", "")],
    [("system", ""), ("user", "a")],
    # refused
    [],
    [("system", "a")],
    [("user", "a"), ("assistant", "b")],
    [("assistant", "a")],
    [("user", "a"), ("system", "b")],
    [("user", "a"), ("user", "b")],
    [("cat's", "a")],
    [("User", "a")],
]


def expected_chat(
    python: Tokenizer, messages: list[tuple[str, str]], crops: Sequence[int], tokens: ImageTokens
) -> list[int] | str:
    try:
        turns, _ = read_turns([{"role": role, "content": text} for role, text in messages])
        return encode_chat(python, turns, crops, tokens)
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize("messages", CHATS)
def test_chats_are_those_of_the_python_runtime(
    ours: NativeTokenizer, python: Tokenizer, messages: list[tuple[str, str]]
):
    expected = expected_chat(python, messages, (), ImageTokens(0, 0, 0, 0))
    if isinstance(expected, str):
        assert refusal(ours.chat, messages) == expected
    else:
        assert ours.chat(messages) == expected


@pytest.mark.parametrize(
    ("messages", "crops"),
    [
        ([("user", "What?")], [0, 0]),
        ([("user", f"{IMAGE} or {IMAGE}?")], [0, 3]),
        ([("user", f"a {IMAGE}"), ("model", "b"), ("user", f"c{IMAGE}{IMAGE} d")], [2, 0, 1]),
        ([("system", f"like {IMAGE}"), ("user", f"x {IMAGE}")], [0, 0]),
    ],
)
def test_images_stand_in_chats_as_in_the_python_runtime(
    library: TextLibrary, seeing: Path, messages: list[tuple[str, str]], crops: list[int]
):
    vision = library.vision(seeing)
    tokens = ImageTokens(
        vision.begin_token_id, vision.soft_token_id, vision.end_token_id, vision.tokens_per_image
    )
    python = Tokenizer(toy_tokenizer(), Path("m"), BOS)
    own = library.tokenizer(seeing)
    ids = own.chat(messages, crops=crops)
    assert ids == expected_chat(python, messages, crops, tokens)
    assert ids.count(tokens.soft) == tokens.per_image * (len(crops) + sum(crops))
    if not any(crops):
        assert own.chat(messages, pictures=len(crops)) == ids
    if any(IMAGE in text for _, text in messages):
        message = refusal(own.chat, messages, pictures=len(crops) + 1)
        assert f"messages have {len(crops)} times {IMAGE} but there are {len(crops) + 1}" in message


def test_texts_that_are_not_utf8_and_counts_that_cannot_be_are_refused(library: TextLibrary):
    ours = library.tokenizer(toy_tokenizer())
    assert refusal(ours.encode, b"ab\xff") == "text: expected text in UTF-8, got none at byte 2"
    huge, out = c.c_size_t(2**63), (c.byref(c.c_void_p()), c.byref(c.c_size_t()))
    call, handle = library.call, ours.handle
    message = refusal(call, "gemma3_encode", handle, b"a", huge, 0, *out)
    assert message == "text: expected at most 1073741824, got 9223372036854775808"
    assert "tokens: expected at most" in refusal(call, "gemma3_decode", handle, None, huge, 0, *out)
    one = c.c_size_t(1)
    assert refusal(call, "gemma3_decode", handle, None, one, 0, *out).startswith("tokens: expected")
    assert "text: expected a pointer" in refusal(call, "gemma3_encode", handle, None, one, 0, *out)
    assert "flags: has flags" in refusal(ours.encode, "a", SHOW_SPECIAL)
    assert "flags: has flags" in refusal(ours.decode, [2], NO_BOS)
    assert "bytes: expected at most" in refusal(
        call, "gemma3_tokenizer_read", b"a", huge, 2, c.byref(c.c_void_p())
    )
    assert "is not a readable SentencePiece model" in refusal(library.tokenizer, b"", 2)
    for stops in ([""], ["a" * 4097]):
        assert "stop text 1: expected 1 to 4096 bytes" in refusal(ours.stream, stops)
    assert "stop texts: expected at most 256" in refusal(ours.stream, ["a"] * 257)


def test_structs_of_other_versions_are_read_or_refused(library: TextLibrary):
    ours = library.tokenizer(toy_tokenizer())
    stream = c.c_void_p()
    for size, words in ((0, "set `size`"), (2**40, "set `size`")):
        options = StreamOptions(size=size)
        assert words in refusal(library.call, "gemma3_text_stream_open", ours.handle,
                                c.byref(options), c.byref(stream))  # fmt: skip
    only = StreamOptions(size=c.sizeof(c.c_size_t), stop_count=9)  # members beyond are not there
    library.call("gemma3_text_stream_open", ours.handle, c.byref(only), c.byref(stream))
    library.lib.gemma3_text_stream_close(stream)
    for size in (0, 2**40):
        chat = Chat(c.sizeof(Chat), message_count=1, message_size=size)
        chat.messages = (type(chat.messages)._type_ * 1)((b"user", b"a"))
        assert "message_size: expected the size of an element" in refusal(
            library.tokens, "gemma3_chat_prompt", ours.handle, c.byref(chat)
        )
    chat = Chat(c.sizeof(Chat), message_size=16, message_count=2**60)
    assert "messages: expected at most 100000" in refusal(
        library.tokens, "gemma3_chat_prompt", ours.handle, c.byref(chat)
    )
