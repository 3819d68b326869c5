"""Meshes, bucket lists and platforms as the user writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.artifacts.manifest import Axis, Bucket, ProgramName
from gemma3_export.export.options import (
    MAX_BUCKET,
    PLATFORMS,
    ExportOptions,
    parse_mesh,
    parse_names,
    parse_sizes,
)


def options(**changes) -> ExportOptions:
    values = {
        "meshes": (parse_mesh("1x1"),), "batch": (1,), "prefill": (32,), "cache": (64,),
        "generate": 8, "platforms": ("cpu",), "dtype": "bfloat16", "jobs": 1, "out": None,
        "force": False, "checkpoint": None, "abstract": None,
    }  # fmt: skip
    return ExportOptions(**(values | changes))


@pytest.mark.parametrize(
    ("text", "name", "axes"),
    [
        ("2x4", "2x4", [("data", 2), ("model", 4)]),
        (" 2x4 ", "2x4", [("data", 2), ("model", 4)]),
        ("02x04", "2x4", [("data", 2), ("model", 4)]),
        ("model=4", "model=4", [("model", 4)]),
        ("dp=1,fsdp=2,tp=4,sp=1", "dp=1,fsdp=2,tp=4,sp=1",
         [("dp", 1), ("fsdp", 2), ("tp", 4), ("sp", 1)]),
        (" tp = 04 , dp=2", "tp=4,dp=2", [("tp", 4), ("dp", 2)]),
        ("1024x1024", "1024x1024", [("data", 1024), ("model", 1024)]),
    ],
)  # fmt: skip
def test_a_mesh_is_a_grid_or_named_axes(text: str, name: str, axes: list[tuple[str, int]]):
    mesh = parse_mesh(text)
    assert mesh.name == name
    assert mesh.axes == tuple(Axis(*axis) for axis in axes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "DATAxMODEL"),
        ("2x", "DATAxMODEL"),
        ("x4", "DATAxMODEL"),
        ("8", "DATAxMODEL"),
        ("2x4x2", "DATAxMODEL"),
        ("2X4", "DATAxMODEL"),
        ("2*4", "DATAxMODEL"),
        ("-2x4", "DATAxMODEL"),
        ("2x4,", "DATAxMODEL"),
        ("dp", "DATAxMODEL"),
        ("dp=", "DATAxMODEL"),
        ("dp=x", "DATAxMODEL"),
        ("dp=-1", "DATAxMODEL"),
        ("dp=1.5", "DATAxMODEL"),
        ("dp=2,,tp=2", "DATAxMODEL"),
        ("9" * 5000 + "x1", "DATAxMODEL"),
        ("foo=2", "axis names from"),
        ("=2", "axis names from"),
        ("dp=2,data=2", "axis names from"),
        ("tp=2,TP=2", "axis names from"),
        ("dp=2,dp=2", "each axis once"),
        ("0x4", "sizes of at least 1"),
        ("dp=0", "sizes of at least 1"),
        ("1024x1025", "at most 1048576 devices"),
        ("dp=999999999,tp=999999999", "at most 1048576 devices"),
    ],
    ids=lambda text: text[:20],
)
def test_a_malformed_mesh_is_refused_with_what_was_expected(text: str, reason: str):
    with pytest.raises(UsageError) as raised:
        parse_mesh(text)
    message = str(raised.value)
    assert message.startswith(f"meshes: expected {reason}")
    assert f"got {text!r}"[:200] in message


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("8", (8,)), ("32,128,512", (32, 128, 512)), ("512,32", (32, 512)), ("8, 8,4 ", (4, 8))],
)
def test_sizes_come_sorted_and_once(text: str, sizes: tuple[int, ...]):
    assert parse_sizes("--batch", text) == sizes


@pytest.mark.parametrize(
    "text",
    ["", ",", "8,", "8,,16", "0", "8,0", "-8", "8.0", "1e3", "eight", "8 16", str(MAX_BUCKET + 1)],
)
def test_a_list_that_is_not_of_sizes_is_refused(text: str):
    with pytest.raises(UsageError, match=r"--prefill: expected whole numbers from 1 to .*; got "):
        parse_sizes("--prefill", text)


def test_platforms_come_in_one_order_and_once():
    assert PLATFORMS == ("cpu", "cuda", "tpu")
    assert parse_names("--platform", "tpu, cpu,tpu", PLATFORMS) == ("cpu", "tpu")


@pytest.mark.parametrize("text", ["", "gpu", "CPU", "cpu,", "cpu,rocm"])
def test_an_unknown_platform_is_refused(text: str):
    with pytest.raises(UsageError, match="--platform: expected names from cpu,cuda,tpu; got "):
        parse_names("--platform", text, PLATFORMS)


def test_a_cache_smaller_than_a_chunk_is_refused_with_both_sizes():
    with pytest.raises(UsageError, match="cache 64 is smaller than prefill 128"):
        options(prefill=(32, 128), cache=(64, 256))


def test_abstract_and_checkpoint_exclude_each_other():
    with pytest.raises(UsageError, match="--abstract lowers without weights"):
        options(abstract="1b", checkpoint=Path("x"))


def test_buckets_are_the_whole_grid_once():
    found = list(options(batch=(1, 8), prefill=(16, 32), cache=(64, 128)).buckets())
    assert len(set(found)) == len(found) == 2 * 2 * (2 + 1 + 1 + 2)
    assert Bucket(ProgramName.PREFILL, 8, 16, 128) in found
    assert Bucket(ProgramName.SCORE, 1, 32, 64) in found
    assert Bucket(ProgramName.DECODE, 8, 1, 64) in found
    assert Bucket(ProgramName.GENERATE, 1, 8, 128) in found


def test_generate_emits_no_more_tokens_a_call_than_the_cache_can_hold():
    found = list(options(generate=100, prefill=(8,), cache=(16, 64, 128)).buckets())
    generate = [bucket for bucket in found if bucket.program == ProgramName.GENERATE]
    assert [(bucket.tokens, bucket.cache) for bucket in generate] == [
        (16, 16), (64, 64), (100, 128),
    ]  # fmt: skip
