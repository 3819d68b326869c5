"""Shards and their index: the headers of the shards are the truth, as in transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gemma3_export.export.checkpoint import blocks, open_checkpoint
from safetensors.numpy import save_file

FIRST, SECOND = (f"model-0000{number}-of-00003.safetensors" for number in (1, 2))
NORM = "model.norm.weight"


def change_index(folder, change) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.fixture
def folder(make_folder, weights, config):
    return make_folder(weights, config, shards=3)


def test_a_name_that_no_shard_has_is_taken_as_absent_and_said(folder, weights):
    change_index(folder, lambda names: names.update({"lm_head.weight": FIRST}))
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.tensors) == set(weights)
    assert checkpoint.notes == (
        "model.safetensors.index.json names tensors that no shard has; they are taken as absent, "
        "as in transformers: lm_head.weight",
    )


def test_a_tensor_that_the_index_leaves_out_is_read_and_said(folder, weights):
    change_index(folder, lambda names: names.pop(NORM))
    checkpoint = open_checkpoint(folder)
    np.testing.assert_array_equal(*blocks(checkpoint.tensors[NORM], "float32"), weights[NORM])
    (note,) = checkpoint.notes
    assert "leaves out tensors that the shards have; they are read" in note
    assert note.endswith(f": {NORM}")


def test_a_tensor_that_the_index_looks_for_in_another_shard_is_read_where_it_is(folder, weights):
    def exchange(names):
        for name, shard in names.items():
            names[name] = {FIRST: SECOND, SECOND: FIRST}.get(shard, shard)

    change_index(folder, exchange)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.notes == ()
    for name, value in weights.items():
        np.testing.assert_array_equal(
            np.concatenate(list(blocks(checkpoint.tensors[name], "float32"))), value
        )


def test_of_two_shards_with_one_tensor_the_last_counts_and_it_is_said(folder, weights):
    extra = "model-00004-of-00003.safetensors"
    save_file({NORM: weights[NORM] + 1}, folder / extra)
    change_index(folder, lambda names: names.update({"model.extra": extra}))
    checkpoint = open_checkpoint(folder)
    np.testing.assert_array_equal(*blocks(checkpoint.tensors[NORM], "float32"), weights[NORM] + 1)
    assert any(f"those of the last shard are read, as in transformers: {NORM}" in note
               for note in checkpoint.notes)  # fmt: skip


@pytest.mark.parametrize("link", [False, True])
def test_a_missing_shard_is_refused_by_name(assert_refused, folder, link):
    (folder / SECOND).unlink()
    if link:
        (folder / SECOND).symlink_to("../../blobs/abc")
        assert_refused(folder, f"{SECOND}: is a link to ../../blobs/abc, which is not there")
    else:
        assert_refused(folder, f"shard {SECOND} is missing", "download it")


@pytest.mark.parametrize(
    "weight_map",
    [None, [], {}, {"a": 1}, {"a": "../other/x.safetensors"}, {"a": "\ud800"}, {"a": "x\ny"},
     {"a": "x\0"}],
)  # fmt: skip
def test_an_index_that_maps_to_no_files_of_the_folder_is_refused(
    assert_refused, folder, weight_map
):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_refused(folder, "weight_map must map tensor names to file names")


def test_an_adapter_alone_is_refused_with_what_to_do(assert_refused, folder):
    (folder / "model.safetensors.index.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    assert_refused(folder, "no weights", "merge the adapter into its base model first")


def test_an_adapter_beside_whole_weights_is_said_not_to_count(folder, weights):
    save_file({"x": np.zeros(1, np.float32)}, folder / "adapter_model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.tensors) == set(weights)
    assert checkpoint.notes == (
        "adapter_model.safetensors beside the weights is not applied to them",
    )
