from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.artifacts.prompts import TaskPrompts, format_prompts
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.embed import embed, plan_embed

from .conftest import Command
from .toy_bundle import BOS, EOS, Toy, make_toy_bundle
from .toy_model import VOCAB, toy_weights

TEXTS = [[BOS, *range(20 + n, 19 + n + n)] for n in (1, 4, 5, 16, 3, 2, 9)]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy = Toy(meshes=("1x1", "2x4"), programs=(ProgramName.EMBED,), caches=(64,), add_eos=True)
    return make_toy_bundle(tmp_path_factory.mktemp("bundles") / "embedder", toy)


@pytest.fixture(scope="module")
def loaded(embedder: Path) -> LoadedModel:
    return LoadedModel.load(embedder, "1x1")


def expected(text: list[int]) -> np.ndarray:
    total = toy_weights()["embed"][text].sum(0)
    return total / np.linalg.norm(total)


@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_vectors_are_those_of_each_text_alone(embedder: Path, mesh: str):
    got = embed(LoadedModel.load(embedder, mesh), TEXTS)
    np.testing.assert_allclose(got, [expected(text) for text in TEXTS], atol=1e-5)


def test_groups_take_the_smallest_bucket_that_holds_their_texts(loaded: LoadedModel):
    groups = plan_embed(loaded, TEXTS)
    assert [(g.first, g.count, g.bucket.batch, g.bucket.tokens) for g in groups] == [
        (0, 4, 4, 16), (4, 3, 4, 16),
    ]  # fmt: skip
    (one,) = plan_embed(loaded, [TEXTS[1]])
    assert (one.bucket.batch, one.bucket.tokens, one.bucket.cache) == (1, 4, 0)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([[]], r"^prompt 1 "),
        ([[BOS, VOCAB]], r"^token 2 of prompt 1 is 384"),
        (
            [[BOS], [BOS] * 17],
            r"^prompt of 17 tokens does not fit: longest embed bucket is 16 .*: 4, 16\); "
            r"re-export with --prefill 4,16,32$",
        ),
    ],
)
def test_what_cannot_be_embedded_is_refused(loaded: LoadedModel, texts: list, message: str):
    with pytest.raises(UsageError, match=message):
        embed(loaded, texts)


def test_a_bundle_that_does_not_embed_is_refused(model: LoadedModel):
    with pytest.raises(ArtifactError, match=r"^cannot embed: .* has only these programs: decode"):
        embed(model, [[BOS]])


def test_json_is_one_embedding_for_each_text(embedder: Path, gemma3_run: Command):
    flags = [flag for text in TEXTS for flag in ("--tokens", ",".join(map(str, text)))]
    status, out, err = gemma3_run(embedder, "--embed", *flags)
    values = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert [list(value) for value in values] == [["embedding"]] * len(TEXTS)
    np.testing.assert_allclose(
        [value["embedding"] for value in values], [expected(t) for t in TEXTS], atol=1e-5
    )


def test_a_prompt_ends_with_the_end_token_where_the_tokenizer_adds_it(
    embedder: Path, loaded: LoadedModel, gemma3_run: Command
):
    _, out, _ = gemma3_run(embedder, "--embed", "--prompt", "the fox")
    tokens = [*loaded.tokenizer.encode("the fox", True), EOS]
    assert tokens[0] == BOS
    np.testing.assert_allclose([float(x) for x in out.split()], expected(tokens), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "holds an embedding model and has no other program than embed: pass --embed"),
        (["--score"], "holds an embedding model and has no other program than embed"),
        (["--embed", "--score"], "--score and --embed exclude each other"),
        (["--embed", "--temperature", "1"], "--embed and --temperature exclude each other"),
    ],
)
def test_asking_an_embedding_model_for_text_is_one_line_and_status_2(
    embedder: Path, gemma3_run: Command, arguments: list[str], message: str
):
    status, out, err = gemma3_run(embedder, "--tokens", "2,3", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


TASKS = TaskPrompts({"query": "task: fox | ", "plain": "", "lines": "a\nb: "}, "query")


@pytest.fixture(scope="module")
def with_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = format_prompts(TASKS)
    toy = Toy(prefill=(32,), programs=(ProgramName.EMBED,), caches=(64,), prompts=prompts)
    return make_toy_bundle(tmp_path_factory.mktemp("bundles") / "tasks", toy)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--task", "query", "--prompt", "the fox"], "task: fox | the fox"),
        (["--task", "lines", "--prompt", "the fox"], "a\nb: the fox"),
        (["--task", "plain", "--prompt", "the fox"], "the fox"),
        (["--prompt", "the fox"], "task: fox | the fox"),  # the default
    ],
)
def test_a_text_is_read_behind_the_prompt_of_its_task(
    with_tasks: Path, gemma3_run: Command, arguments: list[str], text: str
):
    status, out, err = gemma3_run(with_tasks, "--embed", "--json", *arguments)
    assert (status, err) == (0, "")
    tokens = LoadedModel.load(with_tasks, "1x1").tokenizer.encode(text, True)
    np.testing.assert_allclose(json.loads(out)["embedding"], expected(tokens), atol=1e-5)


def test_token_ids_are_used_as_they_are_given(with_tasks: Path, gemma3_run: Command):
    _, out, _ = gemma3_run(with_tasks, "--embed", "--json", "--tokens", "2,30,31")
    np.testing.assert_allclose(json.loads(out)["embedding"], expected([2, 30, 31]), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--embed", "--prompt", "a", "--task", "Query"],
         "(lines, plain, query), got 'Query'; pass one of them, or leave --task out"),
        (["--embed", "--tokens", "2,3", "--task", "query"], "--task needs --prompt"),
        (["--prompt", "a", "--task", "query"], "--task needs --embed"),
        (["--embed", "--chat", "--prompt", "a", "--task", "query"], "--task and --chat exclude"),
        # The default task's prompt would be left out.
        (["--embed", "--chat", "--prompt", "a"], "the model puts 'task: fox | ' before a text"),
    ],
)  # fmt: skip
def test_a_task_that_makes_no_sense_is_one_line_and_status_2(
    with_tasks: Path, gemma3_run: Command, arguments: list[str], message: str
):
    status, out, err = gemma3_run(with_tasks, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_bundle_without_tasks_has_none(embedder: Path, gemma3_run: Command):
    status, out, err = gemma3_run(embedder, "--embed", "--prompt", "a", "--task", "query")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"--task: expected a task of {embedder} (none), got 'query'" in err
