"""Typed access to the goldens; README.md says how they were made."""

from __future__ import annotations

import base64
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"

Best = tuple[tuple[int, float], ...]
"""The most likely tokens of one step as (id, log-probability), most likely first."""


@dataclass(frozen=True)
class Score:
    """A scored sequence: `logprobs[i]` is log p(tokens[i + 1] | tokens[: i + 1])."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    loss: float
    """Mean of -logprobs."""


@dataclass(frozen=True)
class TinyPrompt:
    """24 greedy tokens after a prompt given in forward calls of `chunks` tokens."""

    tokens: tuple[int, ...]
    chunks: tuple[int, ...]
    generated: tuple[int, ...]
    best: tuple[Best, ...]
    """Five best at each step; `best[i][0][0] == generated[i]`."""


@dataclass(frozen=True)
class TinyCase:
    """The goldens of one tiny checkpoint of `tiny.TINY`."""

    name: str
    sha256: str
    """`tiny.fingerprint` of the float32 checkpoint they were computed from."""
    prompts: tuple[TinyPrompt, ...]
    score: Score


def _best(steps: list[list[list[float]]]) -> tuple[Best, ...]:
    return tuple(tuple((int(token), value) for token, value in step) for step in steps)


def _score(entry: dict[str, Any]) -> Score:
    return Score(tuple(entry["tokens"]), tuple(entry["logprobs"]), entry["loss"])


def _tiny_case(entry: dict[str, Any]) -> TinyCase:
    prompts = tuple(
        TinyPrompt(
            tokens=tuple(prompt["tokens"]),
            chunks=tuple(prompt["chunks"]),
            generated=tuple(prompt["generated"]),
            best=_best(prompt["best"]),
        )
        for prompt in entry["prompts"]
    )
    return TinyCase(entry["name"], entry["sha256"], prompts, _score(entry["score"]))


@functools.cache
def tiny_cases() -> dict[str, TinyCase]:
    """Every tiny checkpoint's goldens by name."""
    content = json.loads((DATA / "tiny.json").read_text(encoding="utf-8"))
    cases = [_tiny_case(entry) for entry in content["models"]]
    return {case.name: case for case in cases}


@dataclass(frozen=True)
class RealPrompt:
    """64 greedy tokens of the real 270M in float32 after a prompt given in one forward call."""

    tokens: tuple[int, ...]
    generated: tuple[int, ...]
    """End tokens are tokens like any other here: ignore them when comparing."""
    gaps: tuple[float, ...]
    """Log-probability of each generated token less that of the second best."""
    best: tuple[Best, ...]
    """Five best at each step; empty for most prompts."""
    bfloat16: tuple[tuple[float, ...], ...]
    """What transformers gives in bfloat16 for the tokens of `best`, along the float32 tokens;
    empty for most prompts."""


@dataclass(frozen=True)
class RealGoldens:
    """The goldens of the real Gemma 3 270M, dequantised from its GGUF."""

    gguf_sha256: str
    prompts: tuple[RealPrompt, ...]
    score: Score
    score_bfloat16: Score
    texts: dict[str, tuple[int, ...]]
    """Token ids of each text of `texts.TEXTS`, without BOS."""


@functools.cache
def real_goldens() -> RealGoldens:
    """Everything in data/270m.json."""
    content = json.loads((DATA / "270m.json").read_text(encoding="utf-8"))
    half = {entry["tokens"]: entry["logprobs"] for entry in content["bfloat16"]}
    prompts = tuple(
        RealPrompt(
            tokens=tuple(entry["tokens"]),
            generated=tuple(entry["generated"]),
            gaps=tuple(entry["gaps"]),
            best=_best(entry.get("best", [])),
            bfloat16=tuple(tuple(step) for step in half.get(len(entry["tokens"]), [])),
        )
        for entry in content["prompts"]
    )
    return RealGoldens(
        gguf_sha256=content["checkpoint"]["sha256"],
        prompts=prompts,
        score=_score(content["score"]),
        score_bfloat16=_score(content["score"] | content["bfloat16_score"]),
        texts={entry["name"]: tuple(entry["tokens"]) for entry in content["texts"]},
    )


@dataclass(frozen=True)
class VisionPrompt:
    """12 greedy tokens after a prompt with images, given in one forward call."""

    tokens: tuple[int, ...]
    """With every token of every image written out."""
    images: tuple[int, ...]
    """Which pictures of `tiny_vision.pixels` stand in it, in order."""
    generated: tuple[int, ...]
    best: tuple[Best, ...]
    """Five best at each step; `best[i][0][0] == generated[i]`."""


@dataclass(frozen=True)
class VisionCase:
    """The goldens of one tiny checkpoint of `tiny_vision.TINY_VISION`."""

    name: str
    sha256: str
    """`tiny.fingerprint` of the float32 checkpoint in its first layout."""
    features: tuple[tuple[tuple[float, ...], ...], ...]
    """Soft tokens of each picture, [pictures][tokens][width]."""
    prompts: tuple[VisionPrompt, ...]


def _vision_case(entry: dict[str, Any]) -> VisionCase:
    prompts = tuple(
        VisionPrompt(
            tokens=tuple(prompt["tokens"]),
            images=tuple(prompt["images"]),
            generated=tuple(prompt["generated"]),
            best=_best(prompt["best"]),
        )
        for prompt in entry["prompts"]
    )
    features = tuple(tuple(map(tuple, image)) for image in entry["features"])
    return VisionCase(entry["name"], entry["sha256"], features, prompts)


@functools.cache
def vision_cases() -> dict[str, VisionCase]:
    """Every tiny multimodal checkpoint's goldens by name."""
    content = json.loads((DATA / "vision.json").read_text(encoding="utf-8"))
    cases = [_vision_case(entry) for entry in content["models"]]
    return {case.name: case for case in cases}


@dataclass(frozen=True)
class ProcessedPicture:
    """Pixels of `pictures.PICTURES[name]` at the places of `pictures.samples`."""

    name: str
    whole: tuple[tuple[float, ...], ...]
    """One image: without pan and scan."""
    cropped: tuple[tuple[float, ...], ...]
    """With pan and scan: the whole picture, then its crops."""


@dataclass(frozen=True)
class ProcessorGoldens:
    """What transformers makes of pictures and of the places of images in a text."""

    pictures: tuple[ProcessedPicture, ...]
    boxes: dict[tuple[int, int], tuple[tuple[int, int, int, int], ...]]
    """Crops as (left, top, right, bottom) by (width, height); empty where there are none."""
    texts: dict[int, str]
    """What `<start_of_image>` becomes, by number of crops, an image having two soft tokens."""


@functools.cache
def processor_goldens() -> ProcessorGoldens:
    """Everything in data/processor.json."""
    content = json.loads((DATA / "processor.json").read_text(encoding="utf-8"))
    boxes = {(w, h): tuple(map(tuple, found)) for w, h, found in content["boxes"]}
    boxes.update((tuple(size), ()) for size in content["uncropped"])
    return ProcessorGoldens(
        pictures=tuple(
            ProcessedPicture(
                p["name"], tuple(map(tuple, p["whole"])), tuple(map(tuple, p["cropped"]))
            )
            for p in content["pictures"]
        ),
        boxes=boxes,
        texts={entry["crops"]: entry["text"] for entry in content["prompts"]},
    )


@dataclass(frozen=True)
class ClassifiedText:
    """A text and the logits of its classes."""

    tokens: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class ClassifierCase:
    """The goldens of one tiny classifier of `tiny_heads.CLASSIFIERS`."""

    name: str
    sha256: str
    """`tiny.fingerprint` of the checkpoint."""
    rows: tuple[ClassifiedText, ...]
    """Of unequal lengths; computed in one batch."""


@functools.cache
def classifier_cases() -> dict[str, ClassifierCase]:
    """Every tiny classifier's goldens by name."""
    content = json.loads((DATA / "heads.json").read_text(encoding="utf-8"))
    return {
        entry["name"]: ClassifierCase(
            entry["name"],
            entry["sha256"],
            tuple(
                ClassifiedText(tuple(row["tokens"]), tuple(row["scores"])) for row in entry["rows"]
            ),
        )
        for entry in content["classifiers"]
    }


@dataclass(frozen=True)
class EmbeddedText:
    """A text and its vector."""

    tokens: tuple[int, ...]
    embedding: tuple[float, ...]


@dataclass(frozen=True)
class EmbedderCase:
    """The goldens of one tiny embedding model of `tiny_heads.EMBEDDERS`."""

    name: str
    sha256: str
    """`tiny.fingerprint` of the checkpoint without its dense layers."""
    rows: tuple[EmbeddedText, ...]
    """Of unequal lengths; computed in one batch."""


@functools.cache
def embedder_cases() -> dict[str, EmbedderCase]:
    """Every tiny embedding model's goldens by name."""
    content = json.loads((DATA / "heads.json").read_text(encoding="utf-8"))
    return {
        entry["name"]: EmbedderCase(
            entry["name"],
            entry["sha256"],
            tuple(
                EmbeddedText(tuple(row["tokens"]), tuple(row["embedding"])) for row in entry["rows"]
            ),
        )
        for entry in content["embedders"]
    }


@dataclass(frozen=True)
class OutputCase:
    """What happens in every layer of a tiny checkpoint, and the loss of labels."""

    name: str
    """Of `tiny.TINY`, or with images of `tiny_vision.TINY_VISION`."""
    sha256: str
    tokens: tuple[int, ...]
    images: tuple[int, ...]
    """As in VisionPrompt."""
    labels: tuple[int, ...]
    """The tokens, some replaced by -100."""
    loss: float
    batch_loss: float | None
    """Of the text and its first 9 tokens as one left-padded batch; None with images."""
    hidden_states: np.ndarray
    """[L+1,T,D]."""
    attentions: np.ndarray
    """[L,N,T,T]."""


@dataclass(frozen=True)
class ImageClassifierRow:
    """A text with images and the logits of its classes."""

    tokens: tuple[int, ...]
    images: tuple[int, ...]
    scores: tuple[float, ...]


def _unpacked(entry: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(entry["float32"]), "<f4").reshape(entry["shape"])


@functools.cache
def _outputs() -> dict[str, Any]:
    return json.loads((DATA / "outputs.json").read_text(encoding="utf-8"))


@functools.cache
def output_cases() -> dict[str, OutputCase]:
    """The goldens of hidden states, attentions and losses by name of the checkpoint."""
    return {
        entry["name"]: OutputCase(
            entry["name"], entry["sha256"], tuple(entry["tokens"]), tuple(entry["images"]),
            tuple(entry["labels"]), entry["loss"], entry["batch_loss"],
            _unpacked(entry["hidden_states"]), _unpacked(entry["attentions"]),
        )
        for entry in _outputs()["cases"]
    }  # fmt: skip


def image_classifier_rows() -> tuple[ImageClassifierRow, ...]:
    """The goldens of `tiny_vision.IMAGE_CLASSIFIER`."""
    return tuple(
        ImageClassifierRow(tuple(row["tokens"]), tuple(row["images"]), tuple(row["scores"]))
        for row in _outputs()["classifier"]["rows"]
    )


def image_classifier_sha256() -> str:
    """`tiny.fingerprint` of that checkpoint."""
    return _outputs()["classifier"]["sha256"]
