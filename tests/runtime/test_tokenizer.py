from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.runtime.text.tokenizer import Tokenizer
from hypothesis import example, given
from hypothesis import strategies as st

from .toy_bundle import BOS, END_OF_TURN, TOKENIZER_PIECES, toy_tokenizer
from .toy_model import VOCAB

START_OF_TURN = END_OF_TURN - 1
BYTE_0 = END_OF_TURN + 1  # <0x00>


@pytest.fixture(scope="module", params=[False, True], ids=["control", "user_defined"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The toy tokenizer, with its steering pieces marked in either of the two usual ways."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(toy_tokenizer(steering_as_text=request.param))
    return Tokenizer(path.read_bytes(), path, BOS)


@pytest.fixture(scope="module")
def processor() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=toy_tokenizer())


def test_bos_is_added_only_when_asked_for(tokenizer: Tokenizer):
    plain = tokenizer.encode("the fox", add_bos=False)
    assert BOS not in plain
    assert tokenizer.encode("the fox", add_bos=True) == [BOS, *plain]


TEXTS = st.text() | st.lists(
    st.sampled_from(["<start_of_turn>", "<end_of_turn>", "<bos>", "<", ">", "the", " ", "start"])
).map("".join)


@given(text=TEXTS)
@example(text="a<start_of_turn>b<end_of_turn><end_of_turn>")
def test_text_never_becomes_a_steering_token_and_comes_back_unchanged(
    tokenizer: Tokenizer, text: str
):
    ids = tokenizer.encode(text, add_bos=False)
    assert not {BOS, START_OF_TURN, END_OF_TURN}.intersection(ids)
    assert tokenizer.decode(ids) == text.replace("\u2581", " ")


def test_chat_is_the_template_in_ids(tokenizer: Tokenizer):
    newline = tokenizer.encode("\n", add_bos=False)
    assert tokenizer.chat("  the fox<end_of_turn>\n") == [
        BOS, START_OF_TURN, *tokenizer.encode("user\nthe fox<end_of_turn>", add_bos=False),
        END_OF_TURN, *newline, START_OF_TURN, *tokenizer.encode("model\n", add_bos=False),
    ]  # fmt: skip


def test_chat_with_a_tokenizer_that_has_no_turns_is_refused(tmp_path: Path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(toy_tokenizer().replace(b"<start_of_turn>", b"<start_of_tern>"))
    with pytest.raises(ArtifactError, match=r"has no <start_of_turn> piece.*run without chat"):
        Tokenizer(path.read_bytes(), path, BOS).chat("hello")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path, content: bytes):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"tokenizer\.model is not a readable SentencePiece"):
        Tokenizer(path.read_bytes(), path, BOS)


# Mostly bytes, so that characters are spelled, broken and interrupted.
IDS = st.lists(
    st.integers(0, TOKENIZER_PIECES - 1) | st.sampled_from(list("日本é🙂".encode())).map(
        lambda byte: BYTE_0 + byte
    )
)  # fmt: skip


@given(ids=IDS)
@example(ids=[BYTE_0 + byte for byte in "日🙂".encode()])
@example(ids=[BYTE_0 + 0xE6, BYTE_0 + 0x97, BYTE_0 + 0x41])
@example(ids=[BYTE_0 + 0xED, BYTE_0 + 0xA0, BYTE_0 + 0x80, BYTE_0 + 0xF4, BYTE_0 + 0x90])
@example(ids=[BYTE_0 + 0xE6, BOS, BYTE_0 + 0x97, BYTE_0 + 0xA5])
def test_pieces_joined_are_what_sentencepiece_decodes(
    processor: sentencepiece.SentencePieceProcessor, ids: list[int], tmp_path_factory
):
    path = tmp_path_factory.getbasetemp() / "joined.model"
    if not path.exists():
        path.write_bytes(toy_tokenizer())
    decoder = Tokenizer(path.read_bytes(), path, BOS).decoder()
    assert "".join(map(decoder.push, ids)) + decoder.close() == processor.decode(ids)


def test_a_character_spelled_in_bytes_comes_whole(tokenizer: Tokenizer):
    decoder = tokenizer.decoder()
    ids = [BYTE_0 + byte for byte in "日".encode()]
    assert [decoder.push(token) for token in ids] == ["", "", "日"]


def test_ids_beyond_the_pieces_decode_to_nothing(tokenizer: Tokenizer):
    ids = tokenizer.encode("fox", add_bos=False)
    assert tokenizer.decode([VOCAB - 1, *ids, -1, TOKENIZER_PIECES]) == "fox"
