from __future__ import annotations

from gemma3_export.runtime.text.stream import TextStream
from hypothesis import example, given
from hypothesis import strategies as st


class Letters:
    """A decoder whose tokens are pieces of a given text."""

    def __init__(self, pieces: list[str], tail: str = "") -> None:
        self._pieces, self._tail = pieces, tail

    def push(self, token: int) -> str:
        return self._pieces[token]

    def close(self) -> str:
        return self._tail


def stream(pieces: list[str], stops: list[str], tail: str = "") -> tuple[list[str], TextStream]:
    """What was shown after each piece and at the end."""
    text = TextStream(Letters(pieces, tail), stops)
    return [text.push(token) for token in range(len(pieces))] + [text.close()], text


def test_without_stop_texts_everything_is_shown_at_once():
    assert stream(["a", "", "bc"], [])[0] == ["a", "", "bc", ""]


def test_text_ends_before_the_stop_text_wherever_it_is_broken():
    shown, text = stream(["one E", "N", "D two", "more"], ["END"])
    assert shown == ["one ", "", "", "", ""]
    assert (text.text, text.stopped) == ("one ", True)


def test_what_may_begin_a_stop_text_is_held_until_it_cannot():
    assert stream(["E", "N", "T", "E"], ["END"])[0] == ["", "", "ENT", "", "E"]


def test_the_earliest_of_several_stop_texts_counts():
    assert stream(["abcd"], ["d", "bc"])[1].text == "a"


def test_a_stop_text_can_be_completed_by_the_last_broken_character():
    shown, text = stream(["x"], ["\ufffd"], tail="\ufffd")
    assert (shown, text.stopped) == (["x", ""], True)


PIECES = st.lists(st.text("ab", max_size=3), max_size=8)


@given(PIECES, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
@example(["a", "ab"], ["aab"])
def test_joined_it_is_the_text_before_the_first_stop_text_to_be_completed(pieces, stops):
    shown, text = stream(pieces, stops)
    whole = ""
    for piece in pieces:
        whole += piece
        found = [whole.index(stop) for stop in stops if stop in whole]
        if found:
            whole = whole[: min(found)]
            break
    assert "".join(shown) == text.text == whole
    assert text.stopped == any(stop in "".join(pieces) for stop in stops)
