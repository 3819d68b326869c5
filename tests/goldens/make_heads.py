"""Goldens of tiny classifiers and embedding models, and proof that they notice mistakes."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Gemma3TextConfig, Gemma3TextForSequenceClassification, Gemma3TextModel

from .reference import significant, versions
from .tiny import fingerprint
from .tiny_heads import (
    CLASSIFIERS,
    DENSE,
    EMBEDDERS,
    dense_weights,
    write_classifier,
    write_embedder,
)

LENGTHS = (1, 5, 23, 40)
NOTICED = 1e-2


def make_heads() -> dict[str, Any]:
    """Content of data/heads.json."""
    with tempfile.TemporaryDirectory() as folder:
        classifiers = [_classifier(name, Path(folder) / name) for name in CLASSIFIERS]
        embedders = [_embedder(name, Path(folder) / name) for name in EMBEDDERS]
    return {"versions": versions(), "classifiers": classifiers, "embedders": embedders}


def texts(name: str, vocab: int, pad: int) -> list[list[int]]:
    """BOS and random ids; padding stands inside the longest text, where it is a token."""
    rows = []
    for length in LENGTHS:
        key = hashlib.sha256(f"{name}/text/{length}".encode()).digest()[:16]
        raw = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(length)
        row = (raw % np.uint64(vocab - 8) + np.uint64(8)).tolist()
        rows.append([2, *row[1:]])
    rows[-1][20] = pad
    return rows


def padded(rows: list[list[int]], pad: int) -> torch.Tensor:
    """The rows in one tensor, padded on the right."""
    width = max(map(len, rows)) + 3
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


def _classifier(name: str, folder: Path) -> dict[str, Any]:
    write_classifier(name, folder)
    model, info = Gemma3TextForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    model.eval()
    config = model.config
    rows = texts(name, config.vocab_size, config.pad_token_id)
    # One batch of unequal lengths, padded on the right and known to be so by the pad token alone.
    batch = padded(rows, config.pad_token_id)
    with torch.no_grad():
        scores = model(batch).logits
        masked = model(batch, attention_mask=(batch != config.pad_token_id).long()).logits
        alone = torch.cat([model(torch.tensor([row])).logits for row in rows])
        whole = model.score(model.model(batch).last_hidden_state)
    assert (scores - alone).abs().max() < 2e-5
    assert (scores - masked)[:-1].abs().max() < 2e-5  # the last row has a pad token within
    _check_sensitive(name, scores, whole)
    return {
        "name": name,
        "sha256": fingerprint(folder),
        "rows": [
            {"tokens": row, "scores": [significant(value) for value in row_scores]}
            for row, row_scores in zip(rows, scores.tolist(), strict=True)
        ],
    }


def _check_sensitive(name: str, scores: torch.Tensor, whole: torch.Tensor) -> None:
    """Scores taken at a neighbouring place, at the padded end or at an inner pad would show."""
    for row, length in enumerate(LENGTHS):
        for place in {length, length - 2, whole.shape[1] - 1, 19} - {-1, length - 1}:
            moved = (whole[row, place] - scores[row]).abs().max().item()
            assert moved > NOTICED, f"{name}: row {row}, place {place}: {moved}"


def _load_embedder(folder: Path, config: Gemma3TextConfig | None = None) -> Gemma3TextModel:
    model, info = Gemma3TextModel.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager",
        output_loading_info=True,
    )  # fmt: skip
    assert not any(info.values()), info
    return model.eval()


def _vectors(name: str, model: Gemma3TextModel, rows: list[list[int]]) -> torch.Tensor:
    """What sentence-transformers computes: Pooling (mean), Dense, Dense, Normalize."""
    batch = padded(rows, 0)
    mask = torch.tensor([[1] * len(row) + [0] * (batch.shape[1] - len(row)) for row in rows])
    with torch.no_grad():
        hidden = model(batch, attention_mask=mask).last_hidden_state
        x = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        for number in range(len(DENSE[name])):
            linear = {k: torch.from_numpy(v) for k, v in dense_weights(name, number).items()}
            x = torch.nn.functional.linear(x, linear["linear.weight"], linear.get("linear.bias"))
        return torch.nn.functional.normalize(x, p=2, dim=1)


def _embedder(name: str, folder: Path) -> dict[str, Any]:
    write_embedder(name, folder)
    model = _load_embedder(folder)
    assert model.config.sliding_window == EMBEDDERS[name]["sliding_window"] // 2 + 1
    rows = texts(name, model.config.vocab_size, 0)
    vectors = _vectors(name, model, rows)
    alone = torch.cat([_vectors(name, model, [row]) for row in rows])
    assert (vectors - alone).abs().max() < 2e-5
    _check_windows(name, folder, rows, vectors)
    return {
        "name": name,
        "sha256": fingerprint(folder),
        "rows": [
            {"tokens": row, "embedding": [significant(value) for value in vector]}
            for row, vector in zip(rows, vectors.tolist(), strict=True)
        ],
    }


def _check_windows(name: str, folder: Path, rows: list[list[int]], vectors: torch.Tensor) -> None:
    """A window off by one, not halved, halved twice, or a causal mask would show."""
    right = EMBEDDERS[name]["sliding_window"] // 2 + 1
    for label, window in {
        "one narrower": right - 1,
        "one wider": right + 1,
        "not halved": EMBEDDERS[name]["sliding_window"],
        "halved twice": right // 2 + 1,
        "causal": None,
    }.items():
        wrong = Gemma3TextConfig.from_pretrained(folder)
        if window is None:
            wrong.use_bidirectional_attention = False
        else:
            wrong.sliding_window = window
        moved = (_vectors(name, _load_embedder(folder, wrong), rows) - vectors).abs().max().item()
        print(f"{name}: {label}: moves {moved:.3g}", flush=True)
        assert moved > NOTICED, f"{name}: {label}: {moved}"
