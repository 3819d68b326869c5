"""Sessions: rows that go on from turn to turn, and what becomes of one whose call failed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.runtime.loading.buckets import Shape
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.loading.programs import Arrays, Inputs, LoadedProgram
from gemma3_export.runtime.requests.sampling import SamplingParameters
from gemma3_export.runtime.requests.session import Session

from .toy_bundle import BOS
from .toy_model import reference_greedy

GREEDY = SamplingParameters()


def text(length: int, first: int = 20) -> list[int]:
    return [BOS, *(first + 3 * i for i in range(length - 1))]


def open_session(model: LoadedModel, batch: int = 1, logprobs: int = 0) -> Session:
    return Session(model, Shape(batch, 64), GREEDY, logprobs=logprobs)


def turn(session: Session, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """What each row is given after its prompt; rows beyond the prompts may go on as well."""
    first = session.prefill(prompts, count)
    rows = [*first.tokens, *([] for _ in range(4 - len(first.tokens)))]
    for step in session.generate(3):
        for row, tokens in zip(rows, step.tokens, strict=False):
            row += tokens
    return rows


@pytest.mark.parametrize("which", ["model", "sharded_model"])
@pytest.mark.parametrize("logprobs", [0, 3], ids=["generate", "decode"])
@pytest.mark.parametrize("lengths", [(3, 1, 2), (5, 16, 17), (9, 4, 8)])
def test_turns_give_what_the_whole_text_gives(
    which: str, logprobs: int, lengths: tuple[int, ...], request: pytest.FixtureRequest
):
    session, whole = open_session(request.getfixturevalue(which), logprobs=logprobs), []
    for number, length in enumerate(lengths):
        prompt = text(length, 20 + 5 * number)
        whole += prompt
        found = turn(session, [prompt], 5)[0]
        assert found == reference_greedy(whole, 5)
        whole += found


def test_rows_without_a_prompt_stay_as_they_are(model: LoadedModel):
    session = open_session(model, 4)
    texts = [text(3), text(9), text(5)]
    begun = turn(session, texts, 4)
    assert begun[:3] == [reference_greedy(prompt, 4) for prompt in texts]
    more = text(6, 90)
    assert turn(session, [[], more], 4)[:3] == [
        [], reference_greedy([*texts[1], *begun[1], *more], 4), []
    ]  # fmt: skip
    last = turn(session, [text(2), [], text(2), text(7)], 4)
    for row, prompt in ((0, text(2)), (2, text(2))):
        assert last[row] == reference_greedy([*texts[row], *begun[row], *prompt], 4)
    assert last[1] == []
    assert last[3] == reference_greedy(text(7), 4)


def test_a_row_that_is_given_a_prompt_before_it_is_done_has_the_new_number_to_get(
    model: LoadedModel,
):
    session = open_session(model, 4)
    first = session.prefill([text(3), text(4)], 9).tokens
    found = turn(session, [text(5, 70)], 4)
    assert found[0] == reference_greedy([*text(3), *first[0], *text(5, 70)], 4)
    assert found[1] == reference_greedy(text(4), 9)[1:]


def test_a_row_that_was_reset_begins_afresh(model: LoadedModel):
    session = open_session(model, 4)
    turn(session, [text(9), text(4)], 6)
    session.reset(0)
    found = turn(session, [text(5), text(3, 50)], 4)
    assert found[0] == reference_greedy(text(5), 4)
    assert found[1] == reference_greedy([*text(4), *reference_greedy(text(4), 6), *text(3, 50)], 4)
    with pytest.raises(IndexError, match="row: expected 0 to 3, got 4"):
        session.reset(4)


def test_a_row_is_filled_to_its_last_place(model: LoadedModel):
    session = open_session(model)
    with pytest.raises(UsageError, match="20 tokens and 46 new ones do not fit after 0"):
        session.prefill([text(20)], 46)
    assert turn(session, [text(20)], 45)[0] == reference_greedy(text(20), 45)


def test_what_does_not_fit_is_refused_and_leaves_the_session_as_it_was(model: LoadedModel):
    session = open_session(model)
    begun = turn(session, [text(20)], 6)[0]
    for prompts, count, message in (
        ([text(40)], 1, "row 0: 41 tokens and 1 new ones do not fit after 25: .* room for 64"),
        ([text(10)], 30, "row 0: 11 tokens and 30 new ones do not fit after 25"),
        ([text(3), text(3)], 1, "expected at least one token for one of the 1 rows"),
        ([[]], 1, "got 1 prompts of 0 tokens"),
        ([], 1, "got 0 prompts of 0 tokens"),
    ):
        with pytest.raises(UsageError, match=message):
            session.prefill(prompts, count)
    more = text(10, 70)
    assert turn(session, [more], 6)[0] == reference_greedy([*text(20), *begun, *more], 6)


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_session_whose_call_failed_says_that_it_is_at_an_end(
    model: LoadedModel, failing: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
):
    call, calls = LoadedProgram.__call__, []

    def flaky(self: LoadedProgram, inputs: Inputs, cache: Arrays) -> tuple[Arrays, Arrays]:
        calls.append(self.record.bucket)
        if len(calls) == failing:
            raise error("out of memory")
        return call(self, inputs, cache)

    session = open_session(model)
    monkeypatch.setattr(LoadedProgram, "__call__", flaky)
    with pytest.raises(error, match="out of memory"):
        turn(session, [text(20)], 6)  # two calls of prefill, then generate
    assert len(calls) == failing
    with pytest.raises(RuntimeError, match=r"session is at an end: .* begin a new session"):
        session.prefill([text(3)], 2)
    if failing == 3:
        with pytest.raises(RuntimeError, match=r"session is at an end: .* begin a new session"):
            next(session.generate())
    assert len(calls) == failing
    assert turn(open_session(model), [text(3)], 4)[0] == reference_greedy(text(3), 4)
