"""Goldens of hidden states, attentions and losses, and of a classifier that sees images."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Gemma3ForConditionalGeneration, Gemma3ForSequenceClassification

from .loader import tiny_cases, vision_cases
from .reference import load, significant, versions
from .tiny import fingerprint, write_checkpoint
from .tiny_vision import (
    IMAGE_CLASSIFIER,
    pixels,
    write_image_classifier,
)
from .tiny_vision import write_checkpoint as write_vision

NOTICED = 1e-2
IGNORED = -100
TEXT = 14
"""Tokens of a text: more than the window of any of the models."""
IMAGES = 3


def make_outputs() -> dict[str, Any]:
    """Content of data/outputs.json."""
    with tempfile.TemporaryDirectory() as folder:
        texts = [_text(name, Path(folder) / name) for name in ("default", "layer_types")]
        images = [
            _with_images(name, prompt, Path(folder) / name)
            for name, prompt in (("image", 3), ("image_beyond_window", 1))
        ]
        classifier = _classifier(Path(folder) / "classifier")
    return {"versions": versions(), "cases": texts + images, "classifier": classifier}


def packed(array: np.ndarray) -> dict[str, Any]:
    """A float32 array as JSON, to the last bit."""
    data = base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()
    return {"shape": list(array.shape), "float32": data}


def _labels(tokens: list[int]) -> list[int]:
    """The tokens, some of them to be ignored."""
    return [IGNORED if place % 4 == 2 else token for place, token in enumerate(tokens)]


def _case(name: str, folder: Path, model: Any, given: dict[str, Any], tokens: list[int]) -> Any:
    labels = _labels(tokens)
    with torch.no_grad():
        out = model(
            torch.tensor([tokens]), labels=torch.tensor([labels]), use_cache=False,
            output_hidden_states=True, output_attentions=True, **given,
        )  # fmt: skip
    hidden = torch.stack(out.hidden_states)[:, 0].numpy()
    attentions = torch.stack(out.attentions)[:, 0].numpy()
    assert np.allclose(attentions.sum(-1), 1, atol=1e-5)
    _check_sensitive(name, model, out, labels, hidden, attentions)
    return {
        "name": name,
        "sha256": fingerprint(folder),
        "tokens": tokens,
        "labels": labels,
        "loss": significant(out.loss.item()),
        "hidden_states": packed(hidden),
        "attentions": packed(attentions),
    }


def _check_sensitive(
    name: str, model: Any, out: Any, labels: list[int], hidden: np.ndarray, attentions: np.ndarray
) -> None:
    """Layers taken for each other, or labels that are not shifted or ignored, would show."""
    for stack in (hidden, attentions):
        for one, other in zip(stack[1:], stack, strict=False):
            assert np.abs(one - other).max() > NOTICED, name
    logprobs = out.logits[0].log_softmax(-1)
    wanted = torch.tensor(labels)
    for shift, ignored in ((0, IGNORED), (1, -1), (2, IGNORED)):
        kept = wanted[shift:] != ignored
        index = wanted[shift:].clamp(min=0)[:, None]
        taken = logprobs[: len(labels) - shift].gather(1, index)[:, 0]
        assert abs(-taken[kept].mean().item() - out.loss.item()) > NOTICED, name


def _text(name: str, folder: Path) -> dict[str, Any]:
    write_checkpoint(name, folder)
    model = load(folder)
    tokens = list(tiny_cases()[name].score.tokens[:TEXT])
    entry = _case(name, folder, model, {}, tokens)
    _check_left_padding(model, tokens, entry)
    return entry | {"images": []} | _batch_loss(model, tokens)


def _padded(model: Any, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, mask and position ids of the text and of its first 9 tokens, padded on the left."""
    rows = [tokens, [0] * (len(tokens) - 9) + tokens[:9]]
    mask = torch.tensor([[1] * len(tokens), [0] * (len(tokens) - 9) + [1] * 9])
    return torch.tensor(rows), mask, (mask.cumsum(-1) - 1).clamp(min=0)


def _batch_loss(model: Any, tokens: list[int]) -> dict[str, Any]:
    """The loss of a left-padded batch of unequal rows: a mean over labels, not over rows."""
    ids, mask, positions = _padded(model, tokens)
    # The first token of a row is predicted by padding, or by nothing: no label.
    labels = torch.where(mask.cumsum(-1) > 1, ids, IGNORED)
    with torch.no_grad():
        out = model(
            ids, attention_mask=mask, position_ids=positions, labels=labels, use_cache=False
        )
    return {"batch_loss": significant(out.loss.item())}


def _check_left_padding(model: Any, tokens: list[int], entry: dict[str, Any]) -> None:
    """A left-padded row is what it is without padding: tests give such rows to our models."""
    ids, mask, positions = _padded(model, tokens)
    with torch.no_grad():
        out = model(
            ids, attention_mask=mask, position_ids=positions, use_cache=False,
            output_hidden_states=True, output_attentions=True,
        )  # fmt: skip
        alone = model(ids[1:, -9:], use_cache=False, output_hidden_states=True)
    padded = torch.stack(out.hidden_states)[:, 1, -9:]
    moved = (padded - torch.stack(alone.hidden_states)[:, 0]).abs().amax((1, 2))
    assert moved.max() < 5e-5


def _with_images(name: str, prompt: int, folder: Path) -> dict[str, Any]:
    write_vision(name, folder)
    model, info = Gemma3ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    golden = vision_cases()[name].prompts[prompt]
    tokens = list(golden.tokens)
    given = _given(name, model.config.image_token_index, tokens, golden.images)
    entry = _case(name, folder, model.eval(), given, tokens)
    return entry | {"images": list(golden.images), "batch_loss": None}


def _given(name: str, soft: int, tokens: list[int], images: tuple[int, ...]) -> dict[str, Any]:
    if not images:
        return {}
    return {
        "pixel_values": torch.from_numpy(pixels(name, IMAGES)[list(images)]),
        "token_type_ids": (torch.tensor([tokens]) == soft).long(),
    }


def _classifier(folder: Path) -> dict[str, Any]:
    """Scores of texts with and without images, by Gemma3ForSequenceClassification."""
    write_image_classifier(folder)
    model, info = Gemma3ForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    model.eval()
    rows = []
    for golden in vision_cases()["image"].prompts:
        tokens = list(golden.tokens)
        given = _given("image", IMAGE_CLASSIFIER["image_token_index"], tokens, golden.images)
        with torch.no_grad():
            scores = model(torch.tensor([tokens]), **given).logits[0].tolist()
            if golden.images:
                other = _given("image", IMAGE_CLASSIFIER["image_token_index"], tokens,
                               tuple((image + 1) % IMAGES for image in golden.images))  # fmt: skip
                moved = model(torch.tensor([tokens]), **other).logits[0]
                assert (moved - torch.tensor(scores)).abs().max() > NOTICED
        rows.append(
            {"tokens": tokens, "images": list(golden.images), "scores": [*map(significant, scores)]}
        )
    return {"sha256": fingerprint(folder), "rows": rows}
