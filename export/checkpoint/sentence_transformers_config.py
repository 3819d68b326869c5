"""What sentence-transformers keeps of a whole model: task prompts, and how texts are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...artifacts.errors import ArtifactError, one_line
from ...artifacts.prompts import TaskPrompts, check_prompts
from .base import read_json

MODEL_CONFIG = "config_sentence_transformers.json"
TRANSFORMER_CONFIG = "sentence_bert_config.json"
_MODEL_TYPE = "SentenceTransformer"
_KNOWN = {"__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name"}
_TRANSFORMER_KEYS = {
    "max_seq_length", "do_lower_case", "tokenizer_args", "transformer_task", "modality_config",
    "module_output_name", "processing_kwargs", "unpad_inputs",
}  # fmt: skip
_REMEDY = "fix the file, or export a model that needs no more"


def read_prompts(folder: Path, include_prompt: bool) -> tuple[TaskPrompts | None, tuple[str, ...]]:
    """The task prompts, None where there are none, and notes.

    Args:
        folder: of the model.
        include_prompt: whether the tokens of a prompt are pooled with those of the text; a
            program is not told which they are, so else a model with prompts is refused.

    Raises:
        ArtifactError: the file is damaged, is of another kind of model, or names a default that
            it does not have.
    """
    path = folder / MODEL_CONFIG
    if not path.is_file():
        return None, ()
    config = read_json(path)
    kind = config.get("model_type", _MODEL_TYPE)
    if kind != _MODEL_TYPE:
        raise ArtifactError(f"{path}: model_type: expected {_MODEL_TYPE}, got {kind!r}; {_REMEDY}")
    notes = [
        f"{MODEL_CONFIG}: {one_line(key)[:60]} is not used"
        for key in sorted(config.keys() - _KNOWN)
    ]
    if config.get("similarity_fn_name") is not None:
        name = one_line(str(config["similarity_fn_name"]))[:60]
        notes.append(f"vectors are meant to be compared by {name}, which no program computes")
    prompts = _prompts(path, config)
    if prompts is not None and not include_prompt and any(prompts.prompts.values()):
        raise ArtifactError(
            f"{path}: prompts: expected none where pooling leaves them out (include_prompt is "
            f"false), got {', '.join(prompts.prompts)[:120]}; {_REMEDY}"
        )
    return prompts, tuple(notes)


def _prompts(path: Path, config: dict[str, Any]) -> TaskPrompts | None:
    prompts = config.get("prompts")
    if isinstance(prompts, dict):
        # A task with null for a prompt is one without.
        prompts = {name: "" if text is None else text for name, text in prompts.items()}
    default = config.get("default_prompt_name")
    if prompts in (None, {}) and default is None:
        return None
    return check_prompts({"prompts": prompts, "default": default}, str(path), _REMEDY)


def check_transformer(folder: Path) -> tuple[str, ...]:
    """Notes on how the module Transformer prepares texts.

    Raises:
        ArtifactError: it does more to a text than the tokenizer, or takes something else than
            the last hidden states.
    """
    path = folder / TRANSFORMER_CONFIG
    if not path.is_file():
        return ()
    config = read_json(path)
    right = {
        "do_lower_case": (None, False),
        "tokenizer_args": (None, {}),
        "transformer_task": (None, "feature-extraction"),
        "module_output_name": (None, "token_embeddings"),
        "processing_kwargs": (None, {}),
    }
    for key, values in right.items():
        if config.get(key) not in values:
            _refuse(path, key, " or ".join(map(repr, values[1:])), config[key])
    for key in sorted(config.keys() - _TRANSFORMER_KEYS):
        _refuse(path, key, f"only {', '.join(sorted(_TRANSFORMER_KEYS))}", config[key])
    # With a modality "message" texts would be put through a chat template.
    default = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    if config.get("modality_config", default) not in (None, default):
        _refuse(path, "modality_config", repr(default), config["modality_config"])
    longest = config.get("max_seq_length")
    if longest is None:
        return ()
    return (f"sentence-transformers cuts texts at {longest} tokens; programs refuse longer ones "
            "than their buckets hold",)  # fmt: skip


def _refuse(path: Path, key: str, expected: str, got: object) -> None:
    text = " ".join(repr(got).split())[:120]
    raise ArtifactError(f"{path}: {key}: expected {expected}, got {text}; {_REMEDY}")
