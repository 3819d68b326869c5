"""Calls that are ended from outside or by their callback, through the C interface."""

from __future__ import annotations

from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.artifacts.signing import sign

from ..runtime.toy_bundle import Toy, make_toy_bundle
from ..runtime.toy_model import EMBED, LABELS, reference_greedy
from ..signing_keys import write_key
from .library import build, call, serve

NO_CACHE, CANCELLED = 1, 3
LONG = 4000
"""Tokens of a text that takes a thousand calls of the prefill program to read."""


@pytest.fixture(scope="module")
def library() -> Path:
    return build("tests") / "libgemma3.so"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefill and score in chunks of 4 tokens, batches 1 and 4, rows of 4,096 positions."""
    toy = Toy(batch=(1, 4), prefill=(4,), caches=(4096,))
    return make_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy", toy)


def text(length: int) -> list[int]:
    return [2, *(6 + (7 * i + length) % 300 for i in range(length - 1))]


def test_what_was_told_before_and_after_a_cancelling_callback_is_the_whole(
    library: Path, bundle: Path
) -> None:
    texts = [text(5), text(9), text(2)]
    cases = [(rows, chunk, at) for rows in (1, 3) for chunk in (0, 3) for at in (0, 1, 3, 10)]
    replies = serve(
        library,
        call("open", bundle=str(bundle), flags=NO_CACHE),
        *(call("cancelling", texts[:rows], 32, chunk, at) for rows, chunk, at in cases),
    )
    expected = [reference_greedy(prompt, 32) for prompt in texts]
    for index, (rows, _, at) in enumerate(cases, 1):
        found = replies.value(index)
        assert found["tokens"] == expected[:rows], cases[index - 1]
        if at == 0:
            assert len(found["calls"]) == 3  # prefill, the rest, nothing more
        else:
            assert len(found["calls"]) > 3


def test_a_request_is_cancelled_while_its_prompt_is_read(library: Path, bundle: Path) -> None:
    whole, cancelled, again = (
        call("timed", after, "generate", [text(LONG)], 1, cancel=True)
        for after in (None, 0.05, None)
    )
    replies = serve(
        library, call("open", bundle=str(bundle), flags=NO_CACHE),
        call("generate", [text(5)], 1), whole, cancelled, again,
    )  # fmt: skip
    whole, cancelled, again = (replies.value(index) for index in (2, 3, 4))
    assert (whole["status"], cancelled["status"], again["status"]) == (0, CANCELLED, 0)
    assert cancelled["seconds"] < 0.05 + whole["seconds"] / 4


def test_a_session_cancelled_while_it_reads_empties_the_row_it_reads_for(
    library: Path, bundle: Path
) -> None:
    texts = [text(5), text(9)]
    replies = serve(
        library, call("open", bundle=str(bundle), flags=NO_CACHE),
        call("timed", None, "generate", [text(LONG)], 1),
        call("cancelled_prefill", texts, text(LONG), 0.05),
    )  # fmt: skip
    found = replies.value(2)
    assert found["status"] == CANCELLED
    assert found["positions"] == [0, len(texts[1])]
    first, second = (reference_greedy(prompt, 3) for prompt in texts)
    assert found["told"] == [*second[1:], first[0]]


@pytest.mark.parametrize("task", ["score", "classify", "embed", "compile", "open"])
def test_the_cancel_of_a_model_ends_whatever_it_does(
    library: Path, tmp_path: Path, task: str
) -> None:
    program = {"classify": ProgramName.CLASSIFY, "embed": ProgramName.EMBED}.get(
        task, ProgramName.SCORE
    )
    toy = Toy(programs=(program,), batch=(1,), prefill=(4,), caches=(4096,))
    bundle = str(make_toy_bundle(tmp_path / "toy", toy))
    width = {"classify": [len(LABELS)], "embed": [16]}.get(task, [])
    opening = {"bundle": bundle, "flags": NO_CACHE, "cancel": True}
    calls = {"compile": ("compile",), "open": ("open",)}.get(task, (task, [text(4)], *width))
    values = opening if task == "open" else {}
    replies = serve(
        library, call("open", **opening), call("timed", None, *calls, **values),
        call("set_cancel", True), call("timed", None, *calls, **values),
        call("timed", None, *calls, **values),
    )  # fmt: skip
    assert [replies.value(index)["status"] for index in (1, 3, 4)] == [0, CANCELLED, 0]


def test_scoring_a_long_text_is_cancelled_on_the_way(library: Path, bundle: Path) -> None:
    replies = serve(
        library, call("open", bundle=str(bundle), flags=NO_CACHE, cancel=True),
        call("score", [text(5)]),
        call("timed", None, "score", [text(LONG)]), call("timed", 0.05, "score", [text(LONG)]),
    )  # fmt: skip
    whole, cancelled = replies.value(2), replies.value(3)
    assert (whole["status"], cancelled["status"]) == (0, CANCELLED)
    assert cancelled["seconds"] < 0.05 + whole["seconds"] / 4


CALLS = {
    "compile": ("compile",),
    "score": ("score", [[2, 17, 18]]),
    "classify": ("classify", [[2, 17, 18]], len(LABELS)),
    "embed": ("embed", [[2, 17, 18]], EMBED),
    "prefill": ("step", call("prefill", [[2, 17, 18]], max_new_tokens=2)),
    "generate": ("step", call("generate")),
    "decode": ("step", call("decode")),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_takes_a_cancel_of_its_own(library: Path, tmp_path: Path, name: str) -> None:
    """The model and the session know nothing of it: when it is cleared they go on."""
    program = {"classify": ProgramName.CLASSIFY, "embed": ProgramName.EMBED}.get(name)
    toy = Toy(batch=(1,), prefill=(4,), **({"programs": (program,)} if program else {}))
    method, *arguments = CALLS[name]
    replies = serve(
        library,
        call("open", bundle=str(make_toy_bundle(tmp_path / "toy", toy)), flags=NO_CACHE),
        *([call("session")] if method == "step" else []),
        call("set_cancel", True),
        call(method, *arguments),
        call("set_cancel", False),
        call(method, *arguments),
    )
    assert replies.refused(-3, CANCELLED) == "cancelled"
    assert "value" in replies.values[-1], replies.values[-1]


def test_checking_a_signature_takes_a_cancel(library: Path, tmp_path: Path) -> None:
    folder = make_toy_bundle(tmp_path / "toy", Toy(batch=(1,), prefill=(4,)))
    private, public = write_key(tmp_path, "ours")
    sign(Bundle.open(folder), private, None, ())
    replies = serve(
        library,
        call("open_bundle", str(folder)),
        call("set_cancel", True),
        call("verify_signature", str(public)),
        call("set_cancel", False),
        call("verify_signature", str(public)),
    )
    assert replies.refused(2, CANCELLED) == "cancelled"
    assert replies.value(4) is None
