"""The modules that people call give what transformers gives, padded on the left or not."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.api import Gemma3ModelOutputWithPast, Gemma3TextModel

from ...goldens import tiny
from ...goldens.loader import (
    classifier_cases,
    image_classifier_rows,
    output_cases,
    vision_cases,
)
from ...goldens.tiny_heads import CLASSIFIERS, classifier_weights
from ...goldens.tiny_vision import (
    IMAGE_CLASSIFIER,
    TINY_VISION,
    pixels,
    vision_weights,
)
from .models import classifier, compiled, ids, left_padded, tiny_model, tiny_seeing

TOLERANCE = 1e-4
SEES = [name for name in output_cases() if name in TINY_VISION]
READS = [name for name in output_cases() if name not in TINY_VISION]
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


@pytest.mark.parametrize("name", READS)
def test_text_every_layer_and_the_loss_of_a_left_padded_batch(name: str):
    case = output_cases()[name]
    tokens, mask = left_padded([case.tokens, case.tokens[:9]])
    labels = jnp.where(jnp.cumsum(mask, axis=1) > 1, tokens, -100)
    output = compiled(tiny_model(name), **EVERYTHING)(tokens, attention_mask=mask, labels=labels)
    assert output.loss == pytest.approx(case.batch_loss, abs=TOLERANCE)
    hidden, attentions = np.stack(output.hidden_states), np.stack(output.attentions)
    np.testing.assert_allclose(hidden[:, 0], case.hidden_states, atol=TOLERANCE)
    np.testing.assert_allclose(attentions[:, 0], case.attentions, atol=TOLERANCE)
    gap = len(case.tokens) - 9
    np.testing.assert_allclose(hidden[:, 1, gap:], case.hidden_states[:, :9], atol=TOLERANCE)
    np.testing.assert_allclose(
        attentions[:, 1, :, gap:, gap:], case.attentions[:, :, :9, :9], atol=TOLERANCE
    )
    assert not attentions[:, 1, :, gap:, :gap].any()
    np.testing.assert_array_equal(output.last_hidden_state, output.hidden_states[-1])


def test_labels_of_minus_100_are_left_out_of_the_loss():
    case = output_cases()["default"]
    output = compiled(tiny_model("default"))(ids(case.tokens), labels=ids(case.labels))
    assert output.loss == pytest.approx(case.loss, abs=TOLERANCE)
    assert output.hidden_states is None
    assert output.attentions is None


@pytest.mark.parametrize("name", SEES)
def test_images_every_layer_the_loss_and_the_soft_tokens(name: str):
    case = output_cases()[name]
    output = compiled(tiny_seeing(name), **EVERYTHING)(
        ids(case.tokens), pixels(name, 3)[list(case.images)], labels=ids(case.labels)
    )
    assert output.loss == pytest.approx(case.loss, abs=TOLERANCE)
    np.testing.assert_allclose(
        np.stack(output.hidden_states)[:, 0], case.hidden_states, atol=TOLERANCE
    )
    np.testing.assert_allclose(np.stack(output.attentions)[:, 0], case.attentions, atol=TOLERANCE)
    np.testing.assert_allclose(
        output.image_hidden_states,
        np.asarray(vision_cases()[name].features)[list(case.images)], atol=TOLERANCE,
    )  # fmt: skip


def test_the_text_model_gives_its_own_output_with_every_field_of_text():
    case, model = output_cases()["default"], tiny_model("default").model
    assert type(model) is Gemma3TextModel
    tokens = ids(case.tokens)
    output = compiled(model, **EVERYTHING)(tokens, past_key_values=model.init_cache(1, 32))
    assert type(output) is Gemma3ModelOutputWithPast
    np.testing.assert_allclose(output.last_hidden_state[0], case.hidden_states[-1], atol=TOLERANCE)
    np.testing.assert_allclose(
        np.stack(output.hidden_states)[:, 0], case.hidden_states, atol=TOLERANCE
    )
    attentions, length = np.stack(output.attentions)[:, 0], len(case.tokens)
    np.testing.assert_allclose(attentions[..., :length], case.attentions, atol=TOLERANCE)
    assert output.past_key_values.positions.tolist() == [length]
    assert output.image_hidden_states is None


def test_the_multimodal_body_prepares_reads_and_goes_on_without_a_head():
    case, model = output_cases()["image"], tiny_seeing("image").model
    tokens = ids(case.tokens)
    inputs = model.prepare_inputs_for_generation(
        tokens, 32, 0, None, pixels("image", 3)[list(case.images)]
    )
    output = compiled(model, **EVERYTHING)(tokens, **inputs)
    assert type(output) is Gemma3ModelOutputWithPast
    np.testing.assert_allclose(
        np.stack(output.hidden_states)[:, 0], case.hidden_states, atol=TOLERANCE
    )
    attentions, length = np.stack(output.attentions)[:, 0], len(case.tokens)
    np.testing.assert_allclose(attentions[..., :length], case.attentions, atol=TOLERANCE)
    features = np.asarray(vision_cases()["image"].features)[list(case.images)]
    np.testing.assert_allclose(output.image_hidden_states, features, atol=TOLERANCE)
    inputs = model.update_inputs_for_generation(output, inputs)
    assert "pixel_values" not in inputs
    assert inputs["position_ids"].tolist() == [[length]]
    assert inputs["past_key_values"].positions.tolist() == [length]


def test_a_left_padded_batch_with_images_is_continued_as_transformers_does():
    name, model = "image", tiny_seeing("image")
    goldens = [p for p in vision_cases()[name].prompts if p.images][1:3]
    assert len({len(golden.tokens) for golden in goldens}) == 2
    images = [image for golden in goldens for image in golden.images]
    tokens, mask = left_padded([golden.tokens for golden in goldens])
    inputs = model.prepare_inputs_for_generation(
        tokens, 64, 0, attention_mask=mask, pixel_values=pixels(name, 3)[images]
    )
    run, output = compiled(model), None
    for step in range(4):
        output = run(tokens, **inputs)
        chosen = jnp.argmax(output.logits[:, -1], axis=-1)
        assert chosen.tolist() == [golden.generated[step] for golden in goldens]
        inputs = model.update_inputs_for_generation(output, inputs)
        assert "pixel_values" not in inputs
        tokens = chosen[:, None].astype(jnp.int32)
    assert output is not None
    assert output.image_hidden_states is None


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classes_of_a_batch_padded_on_either_side(name: str):
    rows = classifier_cases()[name].rows[1:3]
    model = classifier(CLASSIFIERS[name], dict(classifier_weights(name)))
    pad = CLASSIFIERS[name]["pad_token_id"]
    tokens, mask = left_padded([row.tokens for row in rows], pad)
    run, expected = compiled(model), [row.scores for row in rows]
    np.testing.assert_allclose(run(tokens, attention_mask=mask).logits, expected, atol=TOLERANCE)
    right = ids(*[[*row.tokens, *[pad] * (tokens.shape[1] - len(row.tokens))] for row in rows])
    output = run(right, labels=jnp.asarray([1, 0]))
    np.testing.assert_allclose(output.logits, expected, atol=TOLERANCE)
    scores = np.asarray(expected, np.float64)
    logs = np.log(np.exp(scores).sum(1)) - scores[[0, 1], [1, 0]]
    assert output.loss == pytest.approx(logs.mean(), abs=TOLERANCE)


def test_classes_of_texts_with_images():
    weights = dict(vision_weights("image"))
    weights["score.weight"] = tiny.normal("image/score.weight", (3, 64), 0.0, 0.2)
    model = classifier(IMAGE_CLASSIFIER, weights)
    row = image_classifier_rows()[3]
    output = compiled(model)(ids(row.tokens), pixel_values=pixels("image", 3)[list(row.images)])
    np.testing.assert_allclose(output.logits[0], row.scores, atol=TOLERANCE)
    assert model.get_encoder() is model.model.vision_tower
