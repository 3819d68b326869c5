"""What a request or a checkpoint says that the bundle could not keep: refused, or said."""

from __future__ import annotations

from ..artifacts.errors import ArtifactError, UsageError
from ..model.config import Gemma3TextConfig
from ..model.lowering.recipes import RECIPES, recipe_name
from .arguments import CHECKPOINT, OUT, QUANTIZE
from .checkpoint import Checkpoint, is_plain
from .options import ExportOptions


def check_paths(options: ExportOptions) -> None:
    """Refuse paths whose names the manifest or a message could not hold. Raises UsageError."""
    for flag, path in ((CHECKPOINT, options.checkpoint), (OUT, options.out)):
        if path is not None and not is_plain(str(path)):
            raise UsageError(
                f"{flag}: expected a path in UTF-8 without control characters, got {str(path)!r}; "
                "rename it"
            )


def check_name(checkpoint: Checkpoint) -> None:
    """Refuse a model name that the manifest could not hold. Raises ArtifactError."""
    if not is_plain(checkpoint.name):
        raise ArtifactError(
            f"{checkpoint.path}: expected a model name in UTF-8 without control characters, got "
            f"{checkpoint.name[:80]!r}; rename the folder or file"
        )


def check_claims(
    checkpoint: Checkpoint, config: Gemma3TextConfig, options: ExportOptions
) -> tuple[str, ...]:
    """Hold fields of config.json that say how a model runs against the request.

    Returns notes on what the bundle does not do. Raises UsageError for `bits` that are not those
    of --quantize: the manifest would repeat them beside weights of another kind.
    """
    if config.bits is not None and config.bits != RECIPES[options.quantize].bits:
        wanted = recipe_name(config.bits)
        raise UsageError(
            f"{checkpoint.path}: config.json bits: {config.bits} asks for quantised matrices, "
            f"got {QUANTIZE} {options.quantize}; pass {QUANTIZE} {wanted}, or take bits out of "
            "config.json"
        )
    notes = beyond_transformers(checkpoint, config)
    for field, output in (
        ("output_hidden_states", "hidden_states"), ("output_attentions", "attentions"),
    ):  # fmt: skip
        if getattr(config, field) and output not in options.outputs:
            notes.append(f"config.json {field} is not kept: --outputs {output} asks for them")
    most = config.mask_max_position_embeddings
    if most is not None and most < max(*options.prefill, *options.cache):
        notes.append(
            f"config.json mask_max_position_embeddings {most} does not limit the programs: "
            "--prefill and --cache do"
        )
    return tuple(notes)


def beyond_transformers(checkpoint: Checkpoint, config: Gemma3TextConfig) -> list[str]:
    """Caps that the programs apply because the config says so, though transformers does not."""
    notes = []
    if config.attn_logit_softcapping is not None:
        notes.append(
            f"attn_logit_softcapping of {config.attn_logit_softcapping} is applied to the scores "
            "of attention, where transformers reads past it"
        )
    seeing = "Gemma3ForConditionalGeneration" in (checkpoint.config.get("architectures") or ())
    if config.final_logit_softcapping is not None and seeing:
        notes.append(
            f"final_logit_softcapping of {config.final_logit_softcapping} is applied to the "
            "logits, where transformers' Gemma3ForConditionalGeneration reads past it"
        )
    return notes
