from __future__ import annotations

import numpy as np
import pytest
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.score import score

from .toy_bundle import BOS
from .toy_model import VOCAB, reference_logits

# Two tokens, chunk edges of buckets 4 and 16, and a text that fills the cache.
TEXTS = [[BOS, *range(20 + n, 19 + n + n)] for n in (2, 4, 5, 16, 17, 40, 64)]


def expected(text: list[int]) -> np.ndarray:
    logits = reference_logits(text)[:-1]
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logprobs[np.arange(len(text) - 1), text[1:]]


@pytest.mark.parametrize("which", ["model", "sharded_model"])
def test_scores_are_those_of_the_whole_text(which: str, request: pytest.FixtureRequest):
    got = score(request.getfixturevalue(which), TEXTS)
    for text, result in zip(TEXTS, got, strict=True):
        np.testing.assert_allclose(result.logprobs, expected(text), atol=1e-4)
        assert result.loss == pytest.approx(-expected(text).mean(), abs=1e-4)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([[BOS]], r"^prompt 1 has one token: a score needs at least 2"),
        ([[BOS, 5], [BOS, VOCAB]], r"^token 2 of prompt 2 is 384"),
        ([[BOS] * 65], r"^prompt of 65 tokens does not fit.*re-export with --cache 128"),
    ],
)
def test_what_cannot_be_scored_is_refused(model: LoadedModel, texts: list, message: str):
    with pytest.raises(UsageError, match=message):
        score(model, texts)
