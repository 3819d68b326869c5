"""Goldens of tiny classifiers, and proof that they would notice what they are there for."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Gemma3TextForSequenceClassification

from .reference import significant, versions
from .tiny import fingerprint
from .tiny_heads import CLASSIFIERS, write_classifier

LENGTHS = (1, 5, 23, 40)
NOTICED = 1e-2


def make_heads() -> dict[str, Any]:
    """Content of data/heads.json."""
    with tempfile.TemporaryDirectory() as folder:
        classifiers = [_classifier(name, Path(folder) / name) for name in CLASSIFIERS]
    return {"versions": versions(), "classifiers": classifiers}


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
