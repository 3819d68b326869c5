from __future__ import annotations

import pytest
from gemma3_export.artifacts.tokenizer_model import (
    TokenizerModelError,
    check_tokenizer_model,
    message_fields,
    repeated_piece,
)

from ..native.tokenizer_models import HARMLESS, HOSTILE, message, number, piece
from ..runtime.toy_bundle import toy_tokenizer


@pytest.fixture(scope="module")
def good() -> bytes:
    return toy_tokenizer()


@pytest.mark.parametrize(
    ("more", "reason"), [case[1:] for case in HOSTILE], ids=[name for name, _, _ in HOSTILE]
)
def test_what_would_change_ids_or_is_a_danger_is_refused_by_name(
    good: bytes, more: bytes, reason: str
):
    try:
        check_tokenizer_model(good + more)
        found = repeated_piece(good + more)
        assert found is not None
    except TokenizerModelError as error:
        found = str(error)
    assert reason in found


@pytest.mark.parametrize("more", [more for _, more in HARMLESS], ids=[name for name, _ in HARMLESS])
def test_what_changes_nothing_is_taken(good: bytes, more: bytes):
    check_tokenizer_model(good + more)
    assert repeated_piece(good + more) is None


@pytest.mark.parametrize("content", [b"", b"not a model", b"\0" * 100, b"\x0a", number(2, 1)])
def test_what_is_no_model_is_refused(content: bytes):
    with pytest.raises(TokenizerModelError, match="is not a readable SentencePiece model"):
        check_tokenizer_model(content)


def test_every_cut_of_a_model_is_refused(good: bytes):
    for size in range(1, len(good), 7):
        with pytest.raises(TokenizerModelError):
            check_tokenizer_model(good[:size])


@pytest.mark.parametrize("kinds", [(1,), (1, 4), (5, 3, 1)])
def test_pieces_after_the_settings_are_numbered_on(good: bytes, kinds: tuple[int, ...]):
    more = b"".join(piece(f"piece{kind}".encode(), kind) for kind in kinds)
    number_of_bad = 320 + len(kinds)
    with pytest.raises(TokenizerModelError, match=f"a piece {number_of_bad} of type 9"):
        check_tokenizer_model(good + more + piece(b"bad", 9))


def test_fields_of_a_message_are_walked_over():
    content = number(3, 300) + message(2, b"abc")
    fields = list(message_fields(content))
    assert fields[0] == (3, 0, 300, 300)
    assert content[slice(*fields[1][2:])] == b"abc"
