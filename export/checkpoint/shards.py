"""The weights of a Hugging Face folder: one safetensors file, or the shards that an index names."""

from __future__ import annotations

from pathlib import Path

from ...artifacts.errors import ArtifactError
from .base import brief, is_plain, is_there, read_json
from .safetensors_header import read_safetensors
from .tensors import TensorSource

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_LONGEST_NAME = 200
"""Characters; asking the system for a longer name is an error of its own."""

Stored = tuple[dict[str, TensorSource], tuple[str, ...]]
"""Every tensor by its stored name, and notes."""


def stored_tensors(folder: Path) -> Stored:
    """What the folder's weight files hold.

    Of shards, their headers are the truth and not the index, as in transformers: a tensor that
    only the index names is not there, one that only a shard has is.

    Raises:
        ArtifactError: there are no weights, the index is damaged, or a shard is missing or damaged.
    """
    if is_there(folder / SINGLE):
        return read_safetensors(folder / SINGLE), ()
    index = folder / INDEX
    if not is_there(index):
        adapter = (
            f"{_ADAPTER} is there: merge the adapter into its base model first"
            if is_there(folder / _ADAPTER)
            else "download them (other formats: save_pretrained(safe_serialization=True))"
        )
        raise ArtifactError(
            f"{folder}: no weights: expected {SINGLE} or {INDEX} with its shards; {adapter}"
        )
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(
        isinstance(name, str) and name == Path(name).name and is_plain(name)
        for name in weight_map.values()
    ):  # fmt: skip
        raise ArtifactError(
            f"{index}: weight_map must map tensor names to file names in the same folder; "
            "download the file again"
        )
    return _merged(folder, weight_map)


def _merged(folder: Path, weight_map: dict[str, str]) -> Stored:
    tensors: dict[str, TensorSource] = {}
    twice: list[str] = []
    for shard in sorted(set(weight_map.values())):
        if len(shard) > _LONGEST_NAME or not is_there(folder / shard):
            raise ArtifactError(
                f"{folder}: shard {shard[:80]} is missing, though {INDEX} names it; "
                "download it into the folder"
            )
        shard_tensors = read_safetensors(folder / shard)
        twice += [name for name in shard_tensors if name in tensors]
        tensors |= shard_tensors
    only_named = [name for name in weight_map if name not in tensors]
    only_there = [name for name in tensors if name not in weight_map]
    remarks = (
        (only_named, "names tensors that no shard has; they are taken as absent"),
        (only_there, "leaves out tensors that the shards have; they are read"),
        (twice, "is of shards that share tensors; those of the last shard are read"),
    )
    return tensors, tuple(
        f"{INDEX} {what}, as in transformers: {brief(names)}" for names, what in remarks if names
    )
