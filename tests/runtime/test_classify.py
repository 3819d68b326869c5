from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.classify import classify

from .conftest import Command
from .toy_bundle import BOS, PAD, Toy, make_toy_bundle
from .toy_model import LABELS, VOCAB, reference_logits

# One token, chunk edges of buckets 4 and 16, a text that fills the cache, and two batches.
TEXTS = [[BOS, *range(20 + n, 19 + n + n)] for n in (1, 4, 5, 16, 17, 64)]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy = Toy(meshes=("1x1", "2x4"), batch=(4,), programs=(ProgramName.CLASSIFY,))
    return make_toy_bundle(tmp_path_factory.mktemp("bundles") / "classifier", toy)


def expected(text: list[int]) -> list[float]:
    return reference_logits(text)[-1, : len(LABELS)].tolist()


@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_scores_are_those_after_the_last_token_of_each_text(classifier: Path, mesh: str):
    got = classify(LoadedModel.load(classifier, mesh), TEXTS)
    np.testing.assert_allclose(got, [expected(text) for text in TEXTS], atol=1e-4)


def test_padding_at_the_end_is_left_out_and_within_a_text_is_a_token(classifier: Path):
    model = LoadedModel.load(classifier, "1x1")
    inner = [BOS, 30, PAD, 31]
    got = classify(model, [[*inner, PAD, PAD], [PAD, PAD, 9], [PAD] * 6])
    np.testing.assert_allclose(
        got, [expected(inner), expected([PAD, PAD, 9]), expected([PAD])], atol=1e-4
    )


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([[]], r"^prompt 1 "),
        ([[BOS], [BOS, VOCAB]], r"^token 2 of prompt 2 is 384"),
        ([[BOS] * 65], r"^prompt of 65 tokens does not fit.*re-export with --cache 128"),
    ],
)
def test_what_cannot_be_classified_is_refused(classifier: Path, texts: list, message: str):
    with pytest.raises(UsageError, match=message):
        classify(LoadedModel.load(classifier, "1x1"), texts)


def test_json_is_one_object_of_scores_for_each_text(classifier: Path, gemma3_run: Command):
    flags = [flag for text in TEXTS for flag in ("--tokens", ",".join(map(str, text)))]
    status, out, err = gemma3_run(classifier, "--classify", *flags)
    assert (status, err) == (0, "")
    values = [json.loads(line) for line in out.splitlines()]
    assert [list(value) for value in values] == [["scores"]] * len(TEXTS)
    np.testing.assert_allclose(
        [value["scores"] for value in values], [expected(text) for text in TEXTS], atol=1e-4
    )
    _, one, _ = gemma3_run(classifier, "--classify", "--tokens", "2,40,41,42", "--json")
    assert json.loads(one)["scores"] == pytest.approx(expected([2, 40, 41, 42]), abs=1e-4)


def test_one_text_is_a_table_of_scores_and_labels(classifier: Path, gemma3_run: Command):
    status, out, _ = gemma3_run(classifier, "--classify", "--prompt", "the fox")
    rows = [line.split(maxsplit=1) for line in out.splitlines()]
    assert status == 0
    assert tuple(label for _, label in rows) == LABELS
    _, as_json, _ = gemma3_run(classifier, "--classify", "--prompt", "the fox", "--json")
    assert [float(score) for score, _ in rows] == pytest.approx(
        json.loads(as_json)["scores"], abs=1e-4
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "holds a classifier and has no other program than classify: pass --classify"),
        (["--score"], "holds a classifier and has no other program than classify: pass --classify"),
        (["--embed"], "holds a classifier and has no other program than classify: pass --classify"),
        (["--classify", "--stop", "x"], "--classify and --stop exclude each other"),
        (["--classify", "--logprobs", "2"], "--classify and --logprobs exclude each other"),
    ],
)
def test_asking_a_classifier_for_text_is_one_line_and_status_2(
    classifier: Path, gemma3_run: Command, arguments: list[str], message: str
):
    status, out, err = gemma3_run(classifier, "--tokens", "2,3", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
