"""The Python API: `import gemma3_export as g3`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gemma3_export as g3

from ..goldens.tiny import write_checkpoint
from .toy_bundle import Toy, make_toy_bundle

WORDS = [[2, 70, 65], [2, 71]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_bundle(tmp_path_factory.mktemp("toy") / "b", Toy(batch=(1, 2)))


@pytest.fixture(scope="module")
def model(toy: Path):
    with g3.load(toy, keep_compiled=False) as model:
        yield model


def test_importing_it_imports_neither_jax_nor_model_code():
    code = (
        "import sys, gemma3_export as g3; assert g3.__version__ and g3.export and g3.UsageError\n"
        "print([m for m in ('jax', 'flax', 'gemma3_export.model') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_name_it_offers_is_there():
    assert all(getattr(g3, name) is not None for name in g3.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = g3.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_one_prompt_gives_one_completion_and_several_give_a_list(model: g3.Model):
    one = model.generate(WORDS[0], max_new_tokens=5)
    several = model.generate(WORDS, max_new_tokens=5)
    assert [row.tokens for row in several] == [
        one.tokens, model.generate(WORDS[1], max_new_tokens=5).tokens
    ]  # fmt: skip
    text = model.generate("the fox", max_new_tokens=3)
    ids = model.tokenizer.encode("the fox", add_bos=True)
    assert text.tokens == model.generate(ids, max_new_tokens=3).tokens


def test_what_is_streamed_is_the_text(model: g3.Model):
    whole = model.generate(WORDS[0], max_new_tokens=9, ignore_eos=True)
    assert "".join(model.stream(WORDS[0], max_new_tokens=9, ignore_eos=True)) == whole.text


def test_each_prompt_is_drawn_in_its_own_way(model: g3.Model):
    warm = g3.SamplingParameters(temperature=2.0, seed=7)
    both = model.generate(
        [WORDS[0], WORDS[0]], max_new_tokens=8, sampling=[g3.SamplingParameters(), warm],
        ignore_eos=True,
    )  # fmt: skip
    greedy = model.generate(WORDS[0], max_new_tokens=8, ignore_eos=True)
    drawn = model.generate(WORDS[0], max_new_tokens=8, temperature=2.0, seed=7, ignore_eos=True)
    assert [row.tokens for row in both] == [greedy.tokens, drawn.tokens]
    assert greedy.tokens != drawn.tokens


def test_a_conversation_is_what_one_turn_of_the_command_is(model: g3.Model):
    tokenizer = model.tokenizer
    messages = [{"role": "user", "content": " the fox "}]
    answer = model.chat(messages, max_new_tokens=4)
    ids = tokenizer.chat("the fox")
    assert answer.tokens == model.generate(ids, max_new_tokens=4).tokens


def test_rows_of_a_session_go_on(model: g3.Model):
    session = model.session(2)
    first = session.prefill(WORDS, 3)
    rows = first.tokens
    for step in session.generate():
        rows = [known + new for known, new in zip(rows, step.tokens, strict=True)]
    assert rows == [row.tokens for row in model.generate(WORDS, max_new_tokens=3)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.generate(WORDS[0], top_k=-1),
            "top_k: expected 0 to 2147483647 (0 is off), got -1",
        ),
        (
            lambda m: m.generate(WORDS[0], top_p=0.5),
            "top_p needs temperature above 0: at 0, the default, the likeliest token is always "
            "taken; pass temperature=1",
        ),
        (lambda m: m.generate([]), "no prompt: pass at least one"),
        (lambda m: m.generate(3), "prompt: expected a text, token ids or messages, got 3"),
        (lambda m: m.generate([["a", 2]]), "prompt 1: expected a text, token ids or messages"),
        (lambda m: m.generate(WORDS[0], images=[3]), "images: "),
        (lambda m: m.generate(WORDS[0], max_new_tokens=0), "max new tokens: expected at least 1"),
        (lambda m: m.stream(WORDS), "prompt: expected one to stream"),
        (lambda m: m.chat([{"role": "cat", "content": ""}]), "message 1: expected role user"),
        (lambda m: m.chat("hello"), "messages: expected dictionaries with role and content"),
        (
            lambda m: m.generate(WORDS, sampling=[g3.SamplingParameters()]),
            "sampling: expected one for each of the 2 prompts, got 1",
        ),
        (
            lambda m: m.generate(WORDS[0], sampling=g3.SamplingParameters(), top_k=3),
            "sampling and top_k exclude each other",
        ),
        (lambda m: m.session(9), "got 9 rows"),
        (lambda m: m.embed("x"), "embed"),
    ],
)
def test_mistakes_are_value_errors_that_speak_of_arguments(model: g3.Model, call, message: str):
    with pytest.raises(g3.UsageError) as caught:
        call(model)
    assert isinstance(caught.value, ValueError)
    assert message in str(caught.value)
    assert "--" not in str(caught.value).partition("re-export")[0]


def test_a_checkpoint_is_exported_scored_and_generated_from(tmp_path: Path):
    checkpoint = write_checkpoint("default", tmp_path / "c")
    result = g3.export(
        checkpoint, tmp_path / "b", prefill=[8], cache=[32], generate=4, dtype="float32", jobs=1
    )
    assert (result.out, result.manifest.meshes[0].mesh.name) == (tmp_path / "b", "1x1")
    with g3.load(result.out) as model:
        made = model.generate([2, 17, 18], max_new_tokens=6, ignore_eos=True)
        assert len(made.tokens) == 6
        score = model.score([2, 17, 18])
        assert np.isclose(score.loss, -np.mean(score.logprobs))
        two = model.score([[2, 17, 18], [2, 5]])
        assert (len(two), two[0].loss) == (2, score.loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"meshes": ["2y4"]}, "meshes: expected"),
        ({"meshes": []}, "meshes: expected at least one"),
        ({"batch": [0]}, "batch: expected whole numbers from 1"),
        ({"dtype": "int3"}, "dtype: expected bfloat16,float32, got 'int3'"),
        ({"quantize": "int2"}, "quantize: expected none,int8"),
        ({"prefill": [64], "cache": [32]}, "cache 32 is smaller than prefill 64"),
    ],
)
def test_an_export_that_is_asked_for_wrongly_says_which_argument(
    tmp_path: Path, arguments: dict, message: str
):
    with pytest.raises(g3.UsageError) as caught:
        g3.export(tmp_path / "none", tmp_path / "b", **arguments)
    assert message in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_a_folder_that_is_no_bundle_is_an_artifact_error(tmp_path: Path):
    with pytest.raises(g3.ArtifactError):
        g3.load(tmp_path)
