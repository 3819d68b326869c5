"""Where every dimension goes: logical axes of tensors, and rules from them to mesh axes.

Two families of meshes are known. `data, model` is what `--mesh 2x4` means. `dp, fsdp, ep, tp,
sp` are EasyDeL's names: dp and fsdp split the batch, fsdp and sp split the other side of each
weight, tp splits heads, feed-forward and vocabulary, sp splits the sequence, and ep is for
experts, of which Gemma 3 has none. A dimension that does not divide stays whole, and the
fallback is reported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

Rules = Mapping[str, tuple[str, ...]]

DATA_MODEL_RULES: Rules = {
    # weights
    "vocab_in": ("model",),
    "embed_in": (),
    "vocab_out": ("model",),
    "heads": ("model",),
    "kv_heads": ("model",),
    "ffw": ("model",),
    "embed": (),
    "norm": (),
    "labels": (),
    "pooled": ("model",),
    # weights of the vision tower and the projector
    "vision_heads": ("model",),
    "vision_ffw": ("model",),
    "vision_embed": (),
    "patch": (),
    "projected": ("model",),
    # activations and cache
    "batch": ("data",),
    "tokens": (),
    "slots": (),
    "images": ("data",),
    "patches": (),
}

NAMED_AXES_RULES: Rules = {
    "vocab_in": ("fsdp", "sp"),
    "embed_in": ("tp",),
    "vocab_out": ("tp",),
    "heads": ("tp",),
    "kv_heads": ("tp",),
    "ffw": ("tp",),
    "embed": ("fsdp", "sp"),
    "norm": (),
    "labels": ("fsdp", "sp"),
    "pooled": ("tp",),
    "vision_heads": ("tp",),
    "vision_ffw": ("tp",),
    "vision_embed": ("fsdp", "sp"),
    "patch": (),
    "projected": ("tp",),
    "batch": ("fsdp", "dp"),
    "tokens": ("sp",),
    "slots": ("sp",),
    "images": ("fsdp", "dp"),
    "patches": ("sp",),
}

DATA_MODEL_AXES = ("data", "model")
NAMED_AXES = ("dp", "fsdp", "ep", "tp", "sp")

ACTIVATION = "activation"
"""The tensor name under which fallbacks are not reported: they follow from the weights'."""

PartitionRules = tuple[tuple[str, PartitionSpec], ...]


def rules_for(axis_names: Sequence[str]) -> Rules:
    """The rules of the family the mesh axes belong to. Raises ValueError naming an unknown axis."""
    if set(axis_names) <= set(DATA_MODEL_AXES):
        return DATA_MODEL_RULES
    if set(axis_names) <= set(NAMED_AXES):
        return NAMED_AXES_RULES
    raise ValueError(
        f"mesh axes {','.join(axis_names)}: expected names from {','.join(DATA_MODEL_AXES)} "
        f"or from {','.join(NAMED_AXES)}"
    )


def get_partition_rules(axis_names: Sequence[str] = NAMED_AXES) -> PartitionRules:
    """(regular expression on the parameter's name, PartitionSpec) pairs, first match wins.

    Names and the (out, in) order of dimensions are the checkpoint's. The table restates the
    logical axes of the modules for readers and tools that want specs by name; a test holds
    the two together. Raises ValueError for what is no list of axis names: EasyDeL once took whether
    weights are fully sharded here, which is to have fsdp among the axes.
    """
    if isinstance(axis_names, str) or not isinstance(axis_names, Sequence):
        raise ValueError(
            f"get_partition_rules: expected names of mesh axes, such as {NAMED_AXES}, "
            f"got {axis_names!r}"
        )
    rules = rules_for(axis_names)

    def spec(*axes: str) -> PartitionSpec:
        kept = [tuple(a for a in rules[axis] if a in axis_names) for axis in axes]
        return PartitionSpec(*[_spec_entry(entry) for entry in kept])

    # The vision tower's rules stand first: its names contain those of the text stack.
    vision = r"(^|\.)vision_tower\..*"
    return (
        (vision + r"patch_embedding\.weight$", spec("vision_embed", "patch", "patch", "patch")),
        (vision + r"position_embedding\.weight$", spec("patch", "vision_embed")),
        (vision + r"self_attn\.[qkv]_proj\.weight$", spec("vision_heads", "vision_embed")),
        (vision + r"self_attn\.[qkv]_proj\.bias$", spec("vision_heads")),
        (vision + r"self_attn\.out_proj\.weight$", spec("vision_embed", "vision_heads")),
        (vision + r"mlp\.fc1\.weight$", spec("vision_ffw", "vision_embed")),
        (vision + r"mlp\.fc1\.bias$", spec("vision_ffw")),
        (vision + r"mlp\.fc2\.weight$", spec("vision_embed", "vision_ffw")),
        (vision + r"(norm\d?\.weight|bias)$", spec("norm")),
        (r"mm_input_projection_weight$", spec("vision_embed", "projected")),
        (r"embed_tokens\.weight$", spec("vocab_in", "embed_in")),
        (r"self_attn\.q_proj\.weight$", spec("heads", "embed")),
        (r"self_attn\.q_proj\.bias$", spec("heads")),
        (r"self_attn\.[kv]_proj\.weight$", spec("kv_heads", "embed")),
        (r"self_attn\.[kv]_proj\.bias$", spec("kv_heads")),
        (r"self_attn\.o_proj\.weight$", spec("embed", "heads")),
        (r"self_attn\.o_proj\.bias$", spec("embed")),
        (r"mlp\.(gate|up)_proj\.weight$", spec("ffw", "embed")),
        (r"mlp\.down_proj\.weight$", spec("embed", "ffw")),
        (r"lm_head\.weight$", spec("vocab_out", "embed")),
        (r"^dense\.\d*[02468]\.weight$", spec("ffw", "embed")),
        (r"^dense\.\d*[02468]\.bias$", spec("ffw")),
        (r"^dense\.\d*[13579]\.weight$", spec("embed", "ffw")),
        (r"^dense\.\d*[13579]\.bias$", spec("embed")),
        (r"^score\.weight$", spec("labels", "pooled")),
        (r"(norm\.weight|bias)$", spec("norm")),
    )


def match_partition_rule(rules: PartitionRules, name: str) -> PartitionSpec:
    """The spec of the first rule whose expression is found in `name`. Raises KeyError."""
    for pattern, spec in rules:
        if re.search(pattern, name):
            return spec
    raise KeyError(f"no partition rule matches {name}")


@dataclass
class Sharder:
    """Resolves logical axes to PartitionSpecs on one mesh, remembering what fell back.

    `mesh` maps axis names to sizes, in order. One device means no sharding at all: the
    programs of a 1x1 mesh carry no sharding annotations.
    """

    mesh: Mapping[str, int]
    fallbacks: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rules = rules_for(tuple(self.mesh))
        # From JAX 0.12 on axes are explicit unless said otherwise: shardings would be types.
        self.abstract_mesh = AbstractMesh(
            tuple(self.mesh.values()), tuple(self.mesh),
            axis_types=(AxisType.Auto,) * len(self.mesh),
        )  # fmt: skip
        self.devices = self.abstract_mesh.size

    def spec(self, name: str, axes: Sequence[str], counts: Sequence[int]) -> PartitionSpec:
        """PartitionSpec of a tensor with these logical axes.

        `counts` gives for each dimension how many equal units it may be cut into: its size,
        except that a dimension of K heads of H numbers counts K. A mesh axis that does not
        divide what is left is passed over.
        """
        used: set[str] = set()
        entries = []
        for axis, count in zip(axes, counts, strict=True):
            entry = self._entry(name, axis, count, used)
            used.update(entry)
            entries.append(_spec_entry(entry))
        return PartitionSpec(*entries)

    def _entry(self, name: str, axis: str, count: int, used: set[str]) -> tuple[str, ...]:
        kept: list[str] = []
        left = count
        for mesh_axis in self.rules[axis]:
            size = self.mesh.get(mesh_axis, 1)
            if size == 1 or mesh_axis in used:
                continue
            if left % size:
                if name == ACTIVATION:
                    continue
                short = re.sub(r"\.\d+\.", ".*.", name)
                self.fallbacks.add(
                    f"{short}: {axis} of {count} is not divisible by {mesh_axis}={size}, kept whole"
                )
                continue
            kept.append(mesh_axis)
            left //= size
        return tuple(kept)

    def shards(self, axis: str, count: int) -> int:
        """Into how many parts a dimension of `count` units is cut."""
        return math.prod(self.mesh[a] for a in self._entry(ACTIVATION, axis, count, set()))

    def sharding(self, spec: PartitionSpec) -> NamedSharding | None:
        """The NamedSharding to lower with, or None on a mesh of one device."""
        return NamedSharding(self.abstract_mesh, spec) if self.devices > 1 else None


def _spec_entry(axes: tuple[str, ...]) -> str | tuple[str, ...] | None:
    if not axes:
        return None
    return axes[0] if len(axes) == 1 else axes
