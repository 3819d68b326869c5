"""Sessions through the C interface: prompts in pieces, rows of their own, and going back."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ..runtime.toy_bundle import Toy, make_toy_bundle
from ..runtime.toy_model import WINDOW, reference_greedy
from .library import USAGE, build, call, serve

NO_DRAW, IGNORE_EOS = 1, 1
SEEDED = {"temperature": 0.9, "top_k": 50, "seed": 7}


@pytest.fixture(scope="module")
def library() -> Path:
    return build("tests") / "libgemma3.so"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Batches 1 and 4; a window of 8 and 64 positions a row."""
    return make_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy", Toy(prefill=(4,)))


def text(length: int) -> list[int]:
    return [2, *(6 + (7 * i + length) % 300 for i in range(length - 1))]


def run(library: Path, bundle: Path, rows: int, *steps: list, **options) -> list:
    """What the steps of one session gave."""
    replies = serve(
        library, call("open", bundle=str(bundle)), call("script", rows, steps, **options)
    )
    return replies.value(1)


def feed(*texts: list[int], **named) -> list:
    return call("prefill", texts, flags=NO_DRAW, **named)


def draw(count: int, *texts: list[int], **named) -> list[list]:
    return [call("prefill", texts, max_new_tokens=count, **named), call("generate")]


def drawn(first: list[list[int]], rest: list[list[int]]) -> list[list[int]]:
    return [begun + more for begun, more in zip(first, rest, strict=True)]


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 9), (4, 8, 12)])
def test_a_prompt_in_pieces_gives_the_tokens_of_the_whole(
    library: Path, bundle: Path, cuts: tuple[int, ...]
) -> None:
    one, two = text(17), text(13)
    edges = [0, *cuts]
    pieces = [feed(one[begin:end], two[begin:end]) for begin, end in itertools.pairwise(edges)]
    *fed, rows, first, rest = run(
        library, bundle, 2, *pieces, call("rows"), *draw(9, one[cuts[-1] :], two[cuts[-1] :])
    )
    assert fed == [[[], []]] * len(cuts)
    assert [(row["position"], row["token"]) for row in rows] == [(cuts[-1], -1)] * 2
    assert drawn(first, rest) == [reference_greedy(one, 9), reference_greedy(two, 9)]


def test_a_row_that_was_only_fed_has_nothing_to_step_from(library: Path, bundle: Path) -> None:
    whole = text(6)
    refused, generated, stepped = run(
        library,
        bundle,
        1,
        feed(whole[:-1]),
        call("decode"),
        call("generate"),
        call("decode", whole[-1:]),
    )[1:]
    assert refused[:2] == [
        USAGE,
        "row 0 has no last token: pass tokens, or prefill it without GEMMA3_NO_DRAW",
    ]
    assert generated == [[]]
    assert stepped == reference_greedy(whole, 1)


def test_rows_have_limits_stop_tokens_and_sampling_of_their_own(
    library: Path, bundle: Path
) -> None:
    one, two, three = text(5), text(9), text(7)
    expected = reference_greedy(two, 12)
    stop = next(token for token in expected if expected.index(token) == 4)
    rows = [
        {"max_new_tokens": 3},
        {"stops": [stop], "flags": IGNORE_EOS},
        {"sampling": SEEDED, "max_new_tokens": 12},
    ]
    replies = serve(
        library,
        call("open", bundle=str(bundle)),
        call("generate", [three], 12, sampling=SEEDED),
        call(
            "script",
            3,
            [
                *draw(6, one, two, three, rows=rows),
                call("restored"),
                call("reset", -1),
                # A row keeps what it was given, in the saved bytes too, until it is given more.
                *draw(12, one, two, three, rows=[{}, {}, {"sampling": {}}]),
                call("reset", 1),
                *draw(12, [], two, rows=[{}, {"stops": [], "flags": IGNORE_EOS}]),
            ],
        ),
    )
    seeded = replies.value(1)[0]["tokens"]
    found = replies.value(2)
    assert drawn(found[0], found[1]) == [reference_greedy(one, 3), expected[:5], seeded]
    assert drawn(found[4], found[5]) == [
        reference_greedy(one, 12),
        expected[:5],
        reference_greedy(three, 12),
    ]
    assert drawn(found[7], found[8])[1] == expected


def test_settings_of_rows_that_are_refused_change_nothing(library: Path, bundle: Path) -> None:
    whole = text(5)
    first, rest, *refused, again, more = run(
        library,
        bundle,
        1,
        *draw(2, whole),
        call("prefill", [[9]], max_new_tokens=4, rows=[{"sampling": {"top_p": 2.0}}]),
        call("prefill", [[9]], max_new_tokens=4, rows=[{"stops": [-1]}]),
        call("prefill", [[9]], max_new_tokens=4, rows=[{}, {}]),
        call("prefill", [[9]], max_new_tokens=0, rows=[{}]),
        call("prefill", [[9]], max_new_tokens=4, rows=[{"flags": 8}]),
        *draw(4, [9]),
    )
    assert [step[0] for step in refused] == [USAGE] * 5
    said = [step[1].split(":")[0] for step in refused]
    assert said == ["top_p", "stop token is -1", "rows", "max new tokens", "flags of a row"]
    begun = drawn(first, rest)[0]
    assert drawn(again, more) == [reference_greedy([*whole, *begun, 9], 4)]


@pytest.mark.parametrize("length", [3, WINDOW - 1, WINDOW])
def test_a_row_within_the_window_goes_back_anywhere(
    library: Path, bundle: Path, length: int
) -> None:
    whole = text(length)
    steps = []
    for cut in range(1, length + 1):
        steps += [call("reset", 0), feed(whole), call("rows"), call("truncate", 0, cut)]
        steps += draw(12, [50, 51])
    found = run(library, bundle, 1, *steps)
    for index, cut in enumerate(range(1, length + 1)):
        _, _, (row,), done, first, rest = found[index * 6 : index * 6 + 6]
        assert (row["position"], row["least"], done) == (length, 0, None)
        assert drawn(first, rest) == [reference_greedy([*whole[:cut], 50, 51], 12)]


@pytest.mark.parametrize("length", [WINDOW + 1, WINDOW + 2, 3 * WINDOW])
def test_a_row_beyond_the_window_goes_back_by_its_last_token(
    library: Path, bundle: Path, length: int
) -> None:
    whole = text(length)
    _, (row,), before, beyond, cut, *gone_on = run(
        library,
        bundle,
        1,
        feed(whole),
        call("rows"),
        call("truncate", 0, length - 2),
        call("truncate", 0, length + 1),
        call("truncate", 0, length - 1),
        *draw(12, [50, 51]),
        call("truncate", 0, 0),
        call("rows"),
        *draw(5, whole),
    )
    assert (row["position"], row["least"]) == (length, length - 1)
    for refused, asked in ((before, length - 2), (beyond, length + 1)):
        assert refused[0] == USAGE
        assert refused[1].startswith(
            f"row 0: expected 0 or a position from {length - 1} to {length}, got {asked}"
        )
    assert cut is None
    first, rest, emptied, (row,), again, more = gone_on
    assert drawn(first, rest) == [reference_greedy([*whole[:-1], 50, 51], 12)]
    assert (emptied, row["position"], row["token"]) == (None, 0, -1)
    assert drawn(again, more) == [reference_greedy(whole, 5)]


def test_going_back_drops_the_token_that_was_drawn_and_not_fed(library: Path, bundle: Path) -> None:
    whole = text(20)
    first, rest, (row,), kept, again, more = run(
        library,
        bundle,
        1,
        *draw(4, whole),
        call("rows"),
        call("truncate", 0, 23),
        *draw(6, [50]),
    )
    begun = drawn(first, rest)[0]
    assert (row["position"], row["token"]) == (23, begun[-1])
    assert kept is None
    assert drawn(again, more) == [reference_greedy([*whole, *begun[:3], 50], 6)]


def test_steps_of_other_rows_take_the_slot_of_an_idle_row(library: Path, bundle: Path) -> None:
    """With log-probabilities rows step together, and one that is idle is written where it is."""
    idle, busy = text(WINDOW), text(5)
    _, before, first, rest, after, refused, done, again, more = run(
        library,
        bundle,
        2,
        feed([], idle),
        call("rows"),
        *draw(3, busy),
        call("rows"),
        call("truncate", 1, WINDOW - 1),
        call("truncate", 1, WINDOW),
        *draw(9, [], [50]),
        logprobs=1,
    )
    assert (before[1]["least"], after[1]["least"]) == (0, WINDOW)
    assert after[1]["position"] == WINDOW
    assert (refused[0], done) == (USAGE, None)
    assert drawn(first, rest)[0] == reference_greedy(busy, 3)
    assert drawn(again, more)[1] == reference_greedy([*idle, 50], 9)


def test_how_far_a_row_goes_back_is_saved_with_it(library: Path, bundle: Path) -> None:
    whole = text(WINDOW)
    replies = run(
        library,
        bundle,
        1,
        feed(whole),
        call("truncate", 0, 3),
        feed([50]),
        call("restored"),
        call("rows"),
        call("truncate", 0, 2),
        *draw(5, [60]),
    )
    (row,), done, first, rest = replies[-4:]
    assert (row["position"], row["token"], row["least"], done) == (4, -1, 0, None)
    assert drawn(first, rest) == [reference_greedy([*whole[:2], 60], 5)]
