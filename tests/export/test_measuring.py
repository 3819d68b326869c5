"""Which forms `--tune` chooses, and how they are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from gemma3_export.export import measure, tuning
from gemma3_export.model.config import LayerType
from gemma3_export.model.lowering.recipes import Scheme
from gemma3_export.model.lowering.table import SHIPPED, AttentionCase, Blocks, ProductCase
from gemma3_export.model.lowering.target import Platform


def test_a_form_must_be_clearly_and_steadily_faster_to_be_chosen():
    shipped = [1.0, 1.1, 0.9, 1.0]
    steady = [0.8, 0.88, 0.72, 0.8]

    def chosen(margin: float = 1.05, **others: list[float]) -> str:
        return tuning.fastest({"a": shipped, **others}, "a", margin)

    assert chosen(b=steady) == "b"
    assert chosen(b=steady, margin=1.3) == "a"
    assert chosen(b=[s * 0.97 for s in shipped]) == "a"
    assert chosen(b=[0.5, 0.5, 1.2, 1.2]) == "a"
    assert chosen(b=steady, c=[0.7] * 4) == "c"
    assert chosen(b=[0.1]) == "a"  # not measured again


def test_a_hopeless_form_is_tried_once_and_the_shipped_one_always(monkeypatch: pytest.MonkeyPatch):
    import time

    monkeypatch.setattr(tuning, "_CASE_SECONDS", 0.05)

    def sleep(seconds: float) -> Callable[[], None]:
        return lambda: time.sleep(seconds)

    times = tuning.race(
        {"fast": sleep(0.001), "shipped": sleep(0.02), "slow": sleep(0.05)}, "shipped"
    )
    assert len(times["fast"]) == len(times["shipped"]) >= 4
    assert len(times["slow"]) == 1
    assert tuning.fastest(times, "shipped", 1.05) == "fast"


def test_measuring_in_a_process_of_its_own_says_what_is_being_measured():
    cases = [
        ProductCase(Platform.CPU, Scheme.NONE, "float32", 32, 64, 4),
        AttentionCase(Platform.CPU, LayerType.FULL, "float32", "float32", 1, 1, 2, 1, 8, 16),
    ]
    said = []
    choices = tuning.measure_cases(cases, 2, lambda what, done, total: said.append((what, done)))
    assert [choice.case for choice in choices] == cases
    assert [set(choice.seconds) for choice in choices] == [
        {"row_product", "float_product", "narrow_product"}, {"whole", "blocks of 1x256"},
    ]  # fmt: skip
    assert said == [
        ("measuring float32 4 x 32x64", 0),
        ("measuring full attention float32 1x1 over 16", 1),
    ]


ONE = AttentionCase(
    Platform.CPU, LayerType.FULL, "bfloat16", "bfloat16", 1, 1, 4, 1, 256, 1024
)  # fmt: skip


def test_forms_of_attention_that_come_to_the_same_are_measured_once():
    assert tuning.attention_forms(ONE) == {
        "blocks of 1x512": Blocks(1, 512), "blocks of 1x256": Blocks(1, 256),
        "blocks of 1x1024": Blocks(1, 1024), "whole": None,
    }  # fmt: skip
    chunk = dataclasses.replace(ONE, tokens=32, kind=LayerType.SLIDING, slots=512)
    assert SHIPPED.blocks(chunk) == Blocks(256, 256)
    assert list(tuning.attention_forms(chunk)) == [
        "blocks of 256x256",
        "blocks of 256x512",
        "whole",
    ]
    huge = dataclasses.replace(ONE, tokens=8192, slots=32768)
    assert "whole" not in tuning.attention_forms(huge)


@pytest.mark.parametrize("kept", ["bfloat16", "int8"])
@pytest.mark.parametrize("kind", list(LayerType))
@pytest.mark.parametrize("tokens", [1, 8])
def test_every_form_of_attention_that_is_measured_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, kept: str, kind: LayerType, tokens: int
):
    monkeypatch.setattr(measure, "ROTATED_BYTES", 1)  # one cache, which each call starts again
    case = AttentionCase(Platform.CPU, kind, "bfloat16", kept, 2, tokens, 4, 2, 16, 24)
    forms = {"whole": None, "blocks": Blocks(4, 8)}
    results = []
    for name, blocks in forms.items():
        calls = measure.attention_calls(case, {name: blocks}, [0, 16])
        results.append([np.asarray(mixed) for mixed in calls[name]()])
    for whole, blocked in zip(*results, strict=True):
        assert whole.shape == (2, tokens, 4, 16)
        np.testing.assert_allclose(whole, blocked, atol=0.02)


def test_each_call_works_on_the_next_copy_of_a_weight(monkeypatch: pytest.MonkeyPatch):
    weight = measure.random_weight(Scheme.INT4, "bfloat16", 64, 128)
    assert weight.shape == (64, 128)
    monkeypatch.setattr(measure, "ROTATED_BYTES", 1)
    assert len(measure.copies(weight)) == 1
    nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(weight))
    monkeypatch.setattr(measure, "ROTATED_BYTES", 3 * nbytes - 1)
    many = measure.copies(weight)
    pointers = {leaf.unsafe_buffer_pointer() for copy in many for leaf in jax.tree.leaves(copy)}
    assert len(many) == 3
    assert len(pointers) == 6
    marked = [dataclasses.replace(copy, scale=copy.scale * i) for i, copy in enumerate(many)]
    case = ProductCase(Platform.CPU, Scheme.INT4, "bfloat16", 64, 128, 2)

    def scale_of(x: jax.Array, weight: Any) -> jax.Array:
        return weight.scale[0, 0]

    call = measure.product_calls(case, [scale_of], marked)["scale_of"]
    assert [int(call()) for _ in range(5)] == [0, 1, 2, 0, 1]
