import dataclasses
import enum
import json
from dataclasses import dataclass
from typing import Any

import pytest
from gemma3_export.artifacts.codec import decode, encode, format_json, parse_json
from gemma3_export.artifacts.errors import ArtifactError
from hypothesis import given
from hypothesis import strategies as st


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    name: str
    count: int


@dataclass(frozen=True)
class Outer:
    flag: bool
    number: float
    colour: Colour
    note: str | None
    pair: tuple[int, int]
    inners: tuple[Inner, ...]
    by_name: dict[str, tuple[Inner, ...]]
    free: dict[str, Any]


OUTER = Outer(
    flag=True,
    number=0.5,
    colour=Colour.BLUE,
    note=None,
    pair=(1, 2),
    inners=(Inner("a", 1), Inner("b", -2)),
    by_name={"x": (Inner("c", 3),), "y": ()},
    free={"nested": [1, {"deep": None}], "float": 1e6},
)


def test_what_was_encoded_decodes_to_the_same_value():
    text = format_json(encode(OUTER))
    assert decode(Outer, parse_json(text.encode(), "f"), "f") == OUTER


def test_text_is_the_same_whatever_order_dictionaries_were_filled_in():
    reversed_dicts = dataclasses.replace(
        OUTER,
        by_name=dict(reversed(OUTER.by_name.items())),
        free=dict(reversed(OUTER.free.items())),
    )
    text = format_json(encode(OUTER))
    assert format_json(encode(reversed_dicts)) == text
    assert text.endswith("}\n")


def test_short_arrays_stay_on_one_line_and_long_ones_are_split():
    text = format_json({"shape": [1, 2, 3], "long": ["x" * 30] * 4})
    assert '  "shape": [1, 2, 3]\n' in text
    assert text.count("x" * 30 + '"\n') == 1
    assert json.loads(text) == {"shape": [1, 2, 3], "long": ["x" * 30] * 4}


def changed(**changes: Any) -> dict[str, Any]:
    return {**encode(OUTER), **changes}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (changed(flag=1), "f: flag: expected true or false, got 1"),
        (changed(pair=[1, True]), "f: pair[1]: expected an integer, got true"),
        (changed(pair=[1, 2.0]), "f: pair[1]: expected an integer, got 2.0"),
        (changed(pair=[1, 2**63]), "f: pair[1]: expected an integer of 64 bits"),
        (changed(pair=[1]), "f: pair: expected an array of 2, got an array of 1"),
        (changed(number="0.5"), 'f: number: expected a number, got "0.5"'),
        (changed(number=True), "f: number: expected a number, got true"),
        (changed(colour="green"), 'f: colour: expected one of red, blue, got "green"'),
        (changed(note=3), "f: note: expected a string, got 3"),
        (changed(note="a\x1b[31m"), "f: note: expected printable characters"),
        (changed(inners={"name": "a"}), "f: inners: expected an array, got an object"),
        (
            changed(inners=[{"name": "a"}]),
            "f: inners[0].count: expected fields name, count, got no such field",
        ),
        (
            changed(inners=[{"name": "a", "count": 1, "extra": 2}]),
            "f: inners[0].extra: expected only fields name, count, got an unknown field",
        ),
        (
            changed(by_name={"x": [{"name": 1, "count": 1}]}),
            'f: by_name["x"][0].name: expected a string, got 1',
        ),
        (changed(by_name={"\n": []}), "f: by_name key: expected printable characters"),
        (changed(free=[]), "f: free: expected an object, got an array of 0"),
        ([], "f: expected an object (Outer), got an array of 0"),
    ],
)
def test_wrong_value_is_refused_with_its_path(value: Any, message: str):
    with pytest.raises(ArtifactError) as raised:
        decode(Outer, value, "f")
    assert str(raised.value).startswith(message)
    assert "re-export" in str(raised.value)


def test_an_integer_is_accepted_for_a_float_and_becomes_one():
    number = decode(Outer, changed(number=2), "f").number
    assert (number, type(number)) == (2.0, float)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "f: expected JSON"),
        (b"", "f: expected JSON"),
        (b"\xff\xfe", "can't decode byte"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": 1, "a": 2}', 'key "a" given twice'),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b"[" * 100_000, "nested too deep"),
        (b"1" * 10_000, "f: expected JSON"),
    ],
)
def test_text_that_is_not_strict_json_is_refused(data: bytes, reason: str):
    with pytest.raises(ArtifactError, match="f: ") as raised:
        parse_json(data, "f")
    assert reason in str(raised.value)


def test_a_pair_of_surrogates_is_one_character():
    assert parse_json(b'"\\ud83d\\ude00"', "f") == "\N{GRINNING FACE}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(field=st.sampled_from([f.name for f in dataclasses.fields(Outer)]), value=JSON)
def test_any_value_in_any_field_is_decoded_or_refused_as_an_artifact_error(field: str, value: Any):
    try:
        decoded = decode(Outer, changed(**{field: value}), "f")
    except ArtifactError:
        return
    assert encode(getattr(decoded, field)) == value
