"""Hugging Face folders: layouts, dtypes, shards, side files, and what is refused."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.export.checkpoint import blocks, check_tensors, open_checkpoint

DATA = Path(__file__).parent / "data"


def whole(source, dtype="float32"):
    return np.concatenate(list(blocks(source, dtype)))


def rewrite_header(file: Path, change) -> None:
    """Pass the JSON header of a safetensors file through `change`."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize(
    "dtype", [np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_dtype_and_sharding_gives_the_same_weights(
    make_folder, weights, shapes, config, dtype, shards
):
    stored = {name: value.astype(dtype) for name, value in weights.items()}
    checkpoint = open_checkpoint(make_folder(stored, config, shards))
    assert check_tensors(checkpoint, shapes) == ()
    assert checkpoint.config == config
    assert checkpoint.name == "tiny"
    assert checkpoint.tokenizer is None
    for name, value in weights.items():
        got = whole(checkpoint.tensors[name])
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, value)


TEXT_LAYOUTS = {
    "text": "model.",
    "bare": "",
    "language_model first": "language_model.model.",
    "model first": "model.language_model.",
}


@pytest.mark.parametrize("prefix", TEXT_LAYOUTS.values(), ids=TEXT_LAYOUTS.keys())
def test_text_tensors_get_text_only_names_in_every_layout(make_folder, weights, prefix):
    stored = {prefix + name.removeprefix("model."): value for name, value in weights.items()}
    checkpoint = open_checkpoint(make_folder(stored))
    assert set(checkpoint.tensors) == set(weights)


@pytest.mark.parametrize(
    ("vision", "projector"),
    [
        ("vision_tower.vision_model.", "multi_modal_projector."),
        ("model.vision_tower.vision_model.", "model.multi_modal_projector."),
        ("vision_tower.", "multi_modal_projector."),
    ],
)
def test_vision_tensors_get_one_name_in_every_layout(make_folder, vision, projector):
    value = np.zeros((4, 2), np.float32)
    stored = {
        vision + "embeddings.patch_embedding.weight": value,
        vision + "encoder.layers.0.mlp.fc1.weight": value,
        projector + "mm_input_projection_weight": value,
        vision + "embeddings.position_ids": np.zeros((1, 4), np.int64),
    }
    assert set(open_checkpoint(make_folder(stored)).tensors) == {
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "multi_modal_projector.mm_input_projection_weight",
    }


def test_multimodal_config_is_kept_as_it_is(make_folder, weights):
    config = {"model_type": "gemma3", "text_config": {"hidden_size": 32}, "vision_config": {}}
    assert open_checkpoint(make_folder(weights, config)).config == config


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, False),
        ({"tie_word_embeddings": True}, False),
        ({"tie_word_embeddings": False}, True),
        ({"text_config": {"tie_word_embeddings": False}}, True),
        ({"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}}, False),
    ],
)
def test_stored_head_counts_only_when_the_config_does_not_tie_it(
    make_folder, weights, config, fields, kept
):
    stored = weights | {"lm_head.weight": weights["model.embed_tokens.weight"] * 2}
    checkpoint = open_checkpoint(make_folder(stored, config | fields))
    assert ("lm_head.weight" in checkpoint.tensors) == kept


def test_side_files_are_read(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 106], "top_k": 64}')
    (folder / "chat_template.jinja").write_text("{{ bos_token }}")
    document = (DATA / "small_tied.json").read_text()
    (folder / "tokenizer.json").write_text(document)
    converted = open_checkpoint(folder)
    assert converted.generation_config == {"eos_token_id": [1, 106], "top_k": 64}
    assert converted.chat_template == "{{ bos_token }}"
    assert converted.tokenizer is not None
    (folder / "tokenizer.model").write_bytes(converted.tokenizer)
    assert open_checkpoint(folder).tokenizer == converted.tokenizer


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"chat_template": "T"}),
        ("chat_template.json", {"chat_template": "T"}),
        (
            "tokenizer_config.json",
            {
                "chat_template": [
                    {"name": "rag", "template": "R"},
                    {"name": "default", "template": "T"},
                ]
            },
        ),
    ],
)
def test_chat_template_is_found_where_older_versions_put_it(folder, name, content):
    (folder / name).write_text(json.dumps(content))
    assert open_checkpoint(folder).chat_template == "T"


@pytest.mark.parametrize(
    ("generation", "config_eos", "expected"),
    [
        ({"eos_token_id": [1, 106]}, 5, (1, 106)),
        ({}, 5, (5,)),
        ({"eos_token_id": 7}, None, (7,)),
        ({}, None, (1,)),
    ],
)
def test_stop_tokens_come_from_generation_config_then_config(
    folder, config, generation, config_eos, expected
):
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": config_eos}))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    assert open_checkpoint(folder).eos_token_ids == expected


def test_missing_path_is_refused(assert_refused, tmp_path):
    assert_refused(tmp_path / "nothing", "nothing: no such file or folder", "--checkpoint")


def test_folder_without_config_is_refused(assert_refused, tmp_path):
    assert_refused(tmp_path, "no config.json and no .gguf", "pass its path to --checkpoint")


def test_single_safetensors_file_is_refused_with_the_remedy(assert_refused, folder):
    assert_refused(folder / "model.safetensors", "got another file", "pass the folder")


@pytest.mark.parametrize("content", ["{not json", '["a list"]', "\udcff"])
def test_config_that_is_no_json_object_is_refused(assert_refused, folder, content):
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert_refused(folder, "config.json", "expected a JSON object", "download the file again")


def test_config_of_another_architecture_is_refused(assert_refused, make_folder, weights):
    folder = make_folder(weights, {"model_type": "llama"})
    assert_refused(folder, "model_type 'llama' is not supported", "gemma3 or gemma3_text")


def test_text_config_that_is_no_object_is_refused(assert_refused, make_folder, weights):
    assert_refused(
        make_folder(weights, {"model_type": "gemma3", "text_config": "x"}), "text_config must be"
    )


def test_folder_without_weights_is_refused(assert_refused, folder):
    (folder / "model.safetensors").unlink()
    assert_refused(folder, "no weights", "model.safetensors.index.json")


def test_missing_shard_is_refused_by_name(assert_refused, make_folder, weights, config):
    folder = make_folder(weights, config, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert_refused(folder, "shard model-00002-of-00003.safetensors is missing", "download it")


def test_tensor_missing_from_its_shard_is_refused_by_name(
    assert_refused, make_folder, weights, config
):
    folder = make_folder(weights, config, shards=3)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.extra.weight"] = "model-00001-of-00003.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_refused(folder, "model-00001-of-00003.safetensors: tensor model.extra.weight is not in")


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, {"a": "../other/x.safetensors"}])
def test_index_that_maps_to_no_files_of_the_folder_is_refused(assert_refused, folder, weight_map):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_refused(folder, "weight_map must map tensor names to file names")


@pytest.mark.parametrize("kept", [-1, -3000])
def test_truncated_shard_is_refused_with_both_lengths(assert_refused, folder, kept):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:kept])
    expected, got = len(content), len(content) + kept
    assert_refused(folder, "truncated", f"expected {expected} bytes", f"got {got}")


def test_file_longer_than_its_header_says_is_refused(assert_refused, folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert_refused(folder, "model.safetensors: too long: expected")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        bytes(100),
        (10**12).to_bytes(8, "little") + b"{}",
        (40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (3).to_bytes(8, "little") + b"{x}",
        (20).to_bytes(8, "little") + b'{"a": {}, "a": {}}  ',
        (100_001).to_bytes(8, "little") + b"[" * 100_001,
    ],
)
def test_damaged_safetensors_header_is_refused(assert_refused, folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert_refused(folder, "damaged safetensors header", "download the file again")


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header[NORM].pop("dtype"),
        lambda header: header[NORM].update(shape="32"),
        lambda header: header[NORM].update(shape=[-32]),
        lambda header: header[NORM].update(shape=[33]),
        lambda header: header[NORM].update(data_offsets=[0, 1 << 60]),
        lambda header: header[NORM].update(data_offsets=[64, 0]),
        lambda header: header[NORM].update(data_offsets=[0]),
        lambda header: header.pop(NORM),
        lambda header: header.update({NORM: 3}),
    ],
)
def test_header_that_contradicts_itself_is_refused(assert_refused, folder, change):
    rewrite_header(folder / "model.safetensors", change)
    assert_refused(folder, "model.safetensors: ", "download the file again")


@pytest.mark.parametrize("dtype", [np.int8, np.float64])
def test_weight_of_another_dtype_is_refused_by_name(assert_refused, make_folder, weights, dtype):
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(dtype)
    assert_refused(make_folder(weights), "tensor model.norm.weight has dtype", "F32, F16, BF16")


def test_unknown_dtype_is_refused_by_name(assert_refused, folder):
    rewrite_header(folder / "model.safetensors", lambda h: h[NORM].update(dtype="F4"))
    assert_refused(folder, "tensor model.norm.weight has dtype F4")


def test_two_tensors_of_one_meaning_are_refused(assert_refused, make_folder, weights):
    weights["language_model.model.norm.weight"] = weights["model.norm.weight"]
    assert_refused(make_folder(weights), "both mean model.norm.weight")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model"])
def test_git_lfs_pointer_is_named_as_such(assert_refused, folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert_refused(folder, f"{name}: is a Git LFS pointer", "git lfs pull")


def test_damaged_tokenizer_model_is_refused(assert_refused, folder):
    (folder / "tokenizer.model").write_bytes(b"\xff" * 64)
    assert_refused(folder, "tokenizer.model: the tokenizer is not a readable SentencePiece model")


def test_missing_and_unexpected_tensors_are_listed_briefly(make_folder, weights, shapes):
    del weights["model.norm.weight"]
    weights["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)
    checkpoint = open_checkpoint(make_folder(weights))
    with pytest.raises(ArtifactError) as error:
        check_tensors(checkpoint, shapes)
    assert "1 missing (model.norm.weight)" in str(error.value)
    assert "1 unexpected (model.layers.0.self_attn.q_proj.bias)" in str(error.value)
    with pytest.raises(ArtifactError, match=r"10 missing .*, and 6 more"):
        check_tensors(checkpoint, {f"model.layers.{n}.x": (1,) for n in range(10)})


def test_tensor_of_wrong_shape_is_refused_by_name(folder, shapes):
    shapes["model.layers.0.mlp.up_proj.weight"] = (65, 32)
    with pytest.raises(ArtifactError, match=r"tensor model\.layers\.0\.mlp\.up_proj\.weight") as e:
        check_tensors(open_checkpoint(folder), shapes)
    assert "expected 65x32" in str(e.value)
    assert "got 64x32" in str(e.value)


def test_tensors_outside_the_text_stack_are_named_not_refused(make_folder, weights, shapes):
    weights["vision_tower.vision_model.post_layernorm.weight"] = np.zeros(4, np.float32)
    unused = check_tensors(open_checkpoint(make_folder(weights)), shapes)
    assert unused == ("vision_tower.vision_model.post_layernorm.weight",)


def test_file_that_shrinks_after_opening_is_refused(folder):
    checkpoint = open_checkpoint(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    last = max(checkpoint.tensors.values(), key=lambda source: source.offset)
    with pytest.raises(ArtifactError, match="file ended inside tensor"):
        whole(last)
