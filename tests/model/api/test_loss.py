"""Losses of batches with padding, and compute_loss as EasyDeL's trainers call it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from ...goldens.loader import output_cases
from ...goldens.tiny_heads import CLASSIFIERS, classifier_weights
from ..small import SMALL, reference_logits, small_weights
from .models import classifier, compiled, ids, left_padded, small_model, tiny_model

ROWS = [[5, 9, 3, 17, 8, 40, 2, 71, 33], [6, 11, 4, 9]]


def mean_loss(rows: list[list[int]]) -> float:
    """Over the next tokens of all rows, each read alone."""
    losses = []
    for row in rows:
        scores = reference_logits(SMALL, small_weights(SMALL), row)[:-1]
        logs = np.log(np.exp(scores).sum(-1)) - scores[np.arange(len(row) - 1), row[1:]]
        losses.extend(logs)
    return float(np.mean(losses))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_that_a_mask_tells_is_left_out_of_the_loss(side: str):
    tokens, mask = left_padded(ROWS)
    if side == "right":
        tokens, mask = (x.at[1].set(jnp.roll(x[1], 4)) for x in (tokens, mask))
    run = compiled(small_model())
    loss = run(tokens, attention_mask=mask, labels=tokens).loss
    assert loss.shape == ()
    assert loss == pytest.approx(mean_loss(ROWS), abs=1e-4)
    assert (
        abs(float(run(tokens, labels=tokens).loss) - mean_loss(ROWS)) > 1e-2
    )  # no mask, no padding


def test_padding_that_a_cache_knows_of_is_left_out_of_the_loss_and_of_what_goes_on():
    model, (tokens, mask) = small_model(), left_padded(ROWS)
    inputs = model.prepare_inputs_for_generation(tokens, 20, 0)
    run = compiled(model)
    output = run(tokens, labels=tokens, **inputs)
    assert output.loss == pytest.approx(mean_loss(ROWS), abs=1e-4)
    more = ids([50, 51, 52], [60, 61, 0])
    wide = jnp.concatenate([mask, ids([1, 1, 1], [1, 1, 0])], axis=1)
    wide = jnp.pad(wide, ((0, 0), (0, 8)), constant_values=1)
    second = run(
        more, past_key_values=output.past_key_values, attention_mask=wide, labels=more
    ).loss  # fmt: skip
    whole = [[*ROWS[0], 50, 51, 52], [*ROWS[1], 60, 61]]
    parts = [whole[0][: n + 1] for n in (9, 10)] + [whole[1][:5]]
    wanted = [51, 52, 61]
    scores = [reference_logits(SMALL, small_weights(SMALL), part)[-1] for part in parts]
    logs = [np.log(np.exp(s).sum()) - s[w] for s, w in zip(scores, [51, 52, 61], strict=True)]
    assert len(wanted) == len(parts)
    assert second == pytest.approx(np.mean(logs), abs=1e-4)


def test_compute_loss_gives_the_output_and_the_loss_of_transformers():
    case, model = output_cases()["default"], tiny_model("default")
    run = compiled(model.compute_loss)
    output, metrics = run(labels=ids(case.labels), input_ids=ids(case.tokens))
    assert metrics.loss == pytest.approx(case.loss, abs=1e-4)
    assert output.loss == metrics.loss
    assert output.logits.shape[:2] == (1, len(case.tokens))
    itself, metrics = run(input_ids=ids(case.tokens))  # labels are the tokens
    expected = compiled(model)(ids(case.tokens), labels=ids(case.tokens)).loss
    assert metrics.loss == pytest.approx(float(expected), abs=1e-5)
    assert itself.loss == metrics.loss
    with pytest.raises(ValueError, match="expected labels or input_ids, got neither"):
        model.compute_loss()
    with pytest.raises(ValueError, match="there is one loss"):
        model.compute_loss(input_ids=ids(case.tokens), loss_kwargs={"smoothing": 1})  # pyright: ignore


def test_compute_loss_of_classes():
    name = next(iter(CLASSIFIERS))
    model = classifier(CLASSIFIERS[name], dict(classifier_weights(name)))
    labels = jnp.asarray([1])
    output, metrics = compiled(model.compute_loss)(labels=labels, input_ids=ids([2, 5, 6]))
    scores = np.asarray(output.logits, np.float64)[0]
    assert metrics.loss == pytest.approx(np.log(np.exp(scores).sum()) - scores[1], abs=1e-4)
    with pytest.raises(ValueError, match="there is one loss"):
        model.compute_loss(labels=labels, loss_config=1, input_ids=ids([2]))  # pyright: ignore
