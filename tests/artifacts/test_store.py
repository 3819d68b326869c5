import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.artifacts.layout import ITEMSIZE
from gemma3_export.artifacts.manifest import Weight
from gemma3_export.artifacts.safetensors_header import (
    SAFETENSORS_DTYPES,
    check_header,
    plan_layout,
)
from gemma3_export.artifacts.store import (
    map_weight,
    numpy_dtype,
    plan_weights,
    store_bytes,
    write_weights,
)
from gemma3_export.artifacts.writer import BundleWriter
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize, safe_open
from safetensors.numpy import load_file

Planned = tuple[str, tuple[int, ...], str]
FILE = "weights/model.safetensors"

PLANS = st.lists(
    st.tuples(st.lists(st.integers(1, 9), max_size=3).map(tuple), st.sampled_from([*ITEMSIZE])),
    min_size=1,
    max_size=8,
).map(lambda plan: [(f"w{index}", *item) for index, item in enumerate(plan)])


def values_of(planned: Planned) -> np.ndarray:
    """Distinct bytes for a planned tensor."""
    _, shape, dtype = planned
    count = math.prod(shape) * numpy_dtype(dtype).itemsize
    data = (np.arange(count) % 2 if dtype == "bool" else np.arange(count) % 100).astype(np.uint8)
    return data.view(numpy_dtype(dtype)).reshape(shape)


@given(plan=PLANS)
def test_every_tensor_starts_at_a_multiple_of_64_in_the_given_order(plan: list[Planned]):
    weights = plan_weights(plan)
    assert [(w.name, w.shape, w.dtype) for w in weights] == plan
    assert all(weight.offset % 64 == 0 for weight in weights)
    for before, after in itertools.pairwise(weights):
        assert 0 <= after.offset - (before.offset + before.nbytes) < 64
    assert store_bytes(plan) == weights[-1].offset + weights[-1].nbytes


@given(plan=PLANS)
def test_the_safetensors_library_reads_what_was_laid_out(plan: list[Planned]):
    layout = plan_layout(plan, FILE)
    data = bytearray(layout.header).ljust(layout.nbytes, b"\0")
    for planned, weight in zip(plan, layout.weights, strict=True):
        data[weight.offset : weight.offset + weight.nbytes] = values_of(planned).tobytes()
    # Not its numpy reader: numpy has no name for 8-bit floats.
    loaded = dict(deserialize(bytes(data)))
    for planned in plan:
        name, shape, dtype = planned
        assert loaded[name]["dtype"] == SAFETENSORS_DTYPES[dtype]
        assert tuple(loaded[name]["shape"]) == shape
        assert loaded[name]["data"] == values_of(planned).tobytes()


def test_sizes_that_are_multiples_of_64_leave_only_the_planned_names(tmp_path: Path):
    plan = [(f"w{i}", (64, 32), dtype) for i, dtype in enumerate(["bfloat16", "float32"])]
    with BundleWriter(tmp_path / "b") as writer:
        with write_weights(writer, plan) as store:
            for planned in plan:
                store.write(planned[0], values_of(planned))
        with safe_open(writer.root / FILE, "np") as file:
            assert set(file.keys()) == {"w0", "w1"}
            assert file.metadata() == {"format": "pt"}


def test_written_blocks_read_back_as_the_whole(tmp_path: Path, tiny: Path):
    plan = [("a", (7, 5, 3), "bfloat16"), ("b", (4,), "int32"), ("c", (), "float32")]
    with BundleWriter(tmp_path / "b") as writer:
        with write_weights(writer, plan) as store:
            whole = values_of(plan[0])
            for start, stop in [(0, 2), (2, 3), (3, 7)]:
                store.write("a", whole[start:stop])
            store.write("b", values_of(plan[1])[::1])
            store.write("c", values_of(plan[2]))
        loaded = load_file(writer.root / FILE)
    for planned in plan:
        np.testing.assert_array_equal(loaded[planned[0]], values_of(planned))


def test_blocks_need_not_be_contiguous(tmp_path: Path):
    block = np.arange(48, dtype=np.float32).reshape(6, 8)
    with BundleWriter(tmp_path / "b") as writer:
        with write_weights(writer, [("a", (8, 6), "float32")]) as store:
            store.write("a", block.T)
        np.testing.assert_array_equal(load_file(writer.root / FILE)["a"], block.T)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("b", np.zeros((2, 3), np.float32)),
        ("a", np.zeros((2, 3), np.float64)),
        ("a", np.zeros((2, 4), np.float32)),
        ("a", np.zeros((3, 3), np.float32)),
    ],
    ids=["other tensor", "other dtype", "other width", "too many rows"],
)
def test_writing_something_else_than_planned_is_a_mistake_of_the_caller(
    tmp_path: Path, name: str, block: np.ndarray
):
    plan = [("a", (2, 3), "float32"), ("b", (2, 3), "float32")]
    with (
        pytest.raises(AssertionError),
        BundleWriter(tmp_path / "b") as writer,
        write_weights(writer, plan) as store,
    ):
        store.write(name, block)


def test_leaving_before_the_last_row_is_a_mistake_of_the_caller(tmp_path: Path):
    with (
        pytest.raises(AssertionError, match="before the last planned tensor"),
        BundleWriter(tmp_path / "b") as writer,
        write_weights(writer, [("a", (2, 3), "float32")]) as store,
    ):
        store.write("a", np.zeros((1, 3), np.float32))


def test_mapped_weights_are_read_only_views_of_one_aligned_mapping(tiny: Path):
    bundle = Bundle.open(tiny)
    loaded = load_file(tiny / FILE)
    bases = set()
    for weight in bundle.manifest.weights:
        mapped = map_weight(bundle, weight)
        np.testing.assert_array_equal(mapped, loaded[weight.name])
        assert mapped.dtype == numpy_dtype(weight.dtype)
        assert not mapped.flags.writeable
        assert not mapped.flags.owndata
        assert mapped.ctypes.data % 64 == 0
        bases.add(mapped.ctypes.data - weight.offset)
    assert len(bases) == 1
    assert list(bundle.mappings) == [FILE]


def test_abstract_bundle_has_no_weights_to_map(abstract: Path):
    bundle = Bundle.open(abstract)
    with pytest.raises(ArtifactError, match=r"abstract bundle .*re-export with --checkpoint"):
        map_weight(bundle, bundle.manifest.weights[0])


def test_the_whole_store_of_27_billion_parameters_is_laid_out_without_padding():
    """The published sizes are multiples of 64 bytes throughout."""
    plan = [(f"w{i}", shape, "bfloat16") for i, shape in enumerate([(262208, 5376), (128,)] * 62)]
    assert b"__padding__" not in plan_layout(plan, FILE).header


# One test for each way a header can be malformed.

HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]},
    "b": {"dtype": "BF16", "shape": [3], "data_offsets": [64, 70]},
}


def store_file(path: Path, header: dict[str, Any], data: int = 70) -> tuple[Weight, ...]:
    """Write a file with `header` and `data` bytes; what a manifest says of the good one."""
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    start = 8 + len(text)
    return (
        Weight("a", (4, 4), "float32", FILE, start),
        Weight("b", (3,), "bfloat16", FILE, start + 64),
    )


def header_refusal(path: Path, weights: tuple[Weight, ...]) -> str:
    """The one line with which the weight file is refused."""
    with pytest.raises(ArtifactError) as raised:
        check_header(path, weights, "model.safetensors")
    assert str(raised.value).startswith("model.safetensors: ")
    return str(raised.value)


def entry(name: str, **changes: object) -> dict[str, Any]:
    """HEADER with one tensor's entry changed."""
    return {**HEADER, name: {**HEADER[name], **changes}}


def test_a_good_header_is_accepted(tmp_path: Path):
    weights = store_file(tmp_path / "x", HEADER)
    check_header(tmp_path / "x", weights, "x")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({k: v for k, v in HEADER.items() if k != "b"}, "expected tensor b, got a file without"),
        (entry("a", dtype="F16"), "a: expected F32 [4, 4] at bytes [0, 64], got F16"),
        (entry("a", shape=[2, 8]), "a: expected F32 [4, 4] at bytes [0, 64], got F32 [2, 8]"),
        (entry("b", data_offsets=[66, 72]), "b: expected BF16 [3] at bytes [64, 70], got"),
        (entry("b", data_offsets=[64, 10**18]), "b: expected BF16 [3] at bytes [64, 70], got"),
        (entry("a", data_offsets=[0, 64, 64]), '["a"].data_offsets: expected an array of 2'),
        (entry("a", data_offsets=[0, "64"]), 'data_offsets[1]: expected an integer, got "64"'),
        (entry("a", shape=[4, -4.0]), "shape[1]: expected an integer, got -4.0"),
        ({**HEADER, "a": {"dtype": "F32"}}, '["a"].shape: expected fields dtype, shape'),
        ({**HEADER, "a": []}, "expected an object (Entry), got an array of 0"),
        ({**HEADER, "c": HEADER["a"]}, "expected no tensor c, got one"),
        ({**HEADER, "__padding__.9": {**HEADER["a"], "dtype": "F32"}}, "expected no tensor __pad"),
        (
            {**HEADER, "__padding__.9": {"dtype": "U8", "shape": [4], "data_offsets": [68, 72]}},
            "__padding__.9: expected a start at byte 70",
        ),
        ({**HEADER, "__metadata__": {"x": 1}}, "expected a string, got 1"),
        ({**HEADER, "__metadata__": "pt"}, 'expected an object, got "pt"'),
    ],
)
def test_header_is_refused_that_says_otherwise(tmp_path: Path, header: dict, message: str):
    store_file(tmp_path / "x", header)
    start = 8 + int.from_bytes((tmp_path / "x").read_bytes()[:8], "little")
    weights = (
        Weight("a", (4, 4), "float32", FILE, start),
        Weight("b", (3,), "bfloat16", FILE, start + 64),
    )
    assert message in header_refusal(tmp_path / "x", weights)


@pytest.mark.parametrize("data", [69, 71])
def test_tensors_must_fill_the_file(tmp_path: Path, data: int):
    weights = store_file(tmp_path / "x", HEADER, data)
    assert f"expected tensors that fill {data} bytes, got 70" in header_refusal(
        tmp_path / "x", weights
    )


def test_length_beyond_the_file_is_refused(tmp_path: Path):
    weights = store_file(tmp_path / "x", HEADER)
    with (tmp_path / "x").open("r+b") as file:
        file.write((2**63).to_bytes(8, "little"))
    assert "got 9223372036854775808 bytes" in header_refusal(tmp_path / "x", weights)


def test_length_beyond_the_limit_of_the_format_is_refused_unread(tmp_path: Path):
    weights = store_file(tmp_path / "x", HEADER)
    with (tmp_path / "x").open("r+b") as file:
        file.write((100_000_001).to_bytes(8, "little"))
    os.truncate(tmp_path / "x", 200_000_000)
    assert "got 100000001 bytes" in header_refusal(tmp_path / "x", weights)


@pytest.mark.parametrize("size", [0, 7, 8])
def test_file_too_short_for_a_header_is_refused(tmp_path: Path, size: int):
    weights = store_file(tmp_path / "x", HEADER)
    os.truncate(tmp_path / "x", size)
    assert f"within {size} bytes" in header_refusal(tmp_path / "x", weights)


@pytest.mark.parametrize("text", [b"no json!", b"[1, 2, 3", b'{"a":1,"a":2}', b"\xff" * 8])
def test_header_that_is_not_json_is_refused(tmp_path: Path, text: bytes):
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text)
    assert "expected JSON" in header_refusal(tmp_path / "x", ())


def test_header_that_is_not_an_object_is_refused(tmp_path: Path):
    (tmp_path / "x").write_bytes((2).to_bytes(8, "little") + b"[]")
    assert "a safetensors header that is an object" in header_refusal(tmp_path / "x", ())


def test_opening_a_bundle_checks_the_header(tiny: Path, write_tiny: Callable):
    data = (tiny / FILE).read_bytes()
    assert data.count(b'"dtype":"BF16"') == 3
    (tiny / FILE).write_bytes(data.replace(b'"dtype":"BF16"', b'"dtype":"F16" ', 1))
    with pytest.raises(ArtifactError, match=r"embed_tokens\.weight: expected BF16 .* got F16"):
        Bundle.open(tiny)


def test_every_dtype_of_the_manifest_has_a_name_in_the_file():
    assert SAFETENSORS_DTYPES.keys() == ITEMSIZE.keys()
