"""Hugging Face folders: layouts, dtypes, shards, side files, and what is refused."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.export.checkpoint import blocks, check_tensors, left_out, open_checkpoint

DATA = Path(__file__).parent / "data"
NORM = "model.norm.weight"


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
    "dtype", [*map(np.dtype, (np.float64, np.float32, np.float16)), np.dtype(ml_dtypes.bfloat16)]
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
    text = {"hidden_size": 32, "tie_word_embeddings": True}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
    assert open_checkpoint(make_folder(weights, config)).config == config


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


@pytest.mark.parametrize(
    "content",
    [
        "{not json", '["a list"]', "\udcff", '{"model_type": "gemma3_text", "head_dim": NaN}',
        '{"x": -Infinity}', '{"head_dim": 8, "head_dim": 16}', '{"text_config": {"a": 1, "a": 1}}',
    ],
)  # fmt: skip
def test_config_that_is_no_json_object_is_refused(assert_refused, folder, content):
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert_refused(folder, "config.json", "expected a JSON object", "download the file again")


def test_which_key_of_a_file_stands_there_twice_is_said(assert_refused, folder):
    (folder / "generation_config.json").write_text('{"top_k": 1, "eos_token_id": 1, "top_k": 2}')
    assert_refused(folder, "generation_config.json: not JSON (key 'top_k' stands there twice)")


def test_a_byte_order_mark_is_no_part_of_the_text(folder, config):
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(config).encode())
    assert open_checkpoint(folder).config == config


LINKED = ["config.json", "model.safetensors", "tokenizer.model", "generation_config.json",
          "tokenizer_config.json", "chat_template.jinja"]  # fmt: skip


@pytest.mark.parametrize("name", LINKED)
def test_a_link_to_a_blob_that_is_not_there_is_named(assert_refused, folder, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../../blobs/0123abcd")
    assert_refused(folder, f"{name}: is a link to ../../blobs/0123abcd, which is not there")


def test_a_checkpoint_that_is_itself_such_a_link_is_named(assert_refused, tmp_path):
    (tmp_path / "snapshot").symlink_to("gone")
    assert_refused(tmp_path / "snapshot", "snapshot: is a link to gone, which is not there")


def test_links_to_blobs_that_are_there_are_followed(folder, weights):
    blob = folder.parent / "blobs" / "0123abcd"
    blob.parent.mkdir()
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to("../blobs/0123abcd")
    (folder / "README.md").symlink_to("nothing that matters")
    assert set(open_checkpoint(folder).tensors) == set(weights)


@pytest.mark.parametrize("name", ["a\nb", "\ud800", "\x1b[31m"])
def test_a_tensor_name_that_is_no_line_of_text_is_refused(assert_refused, folder, name):
    rewrite_header(folder / "model.safetensors", lambda h: h.update({name: h.pop(NORM)}))
    assert_refused(folder, f"tensor name {name!r} is not a line of text")


def test_folder_without_weights_is_refused(assert_refused, folder):
    (folder / "model.safetensors").unlink()
    assert_refused(folder, "no weights", "model.safetensors.index.json")


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


@pytest.mark.parametrize("dtype", [np.int8, np.uint16])
def test_weight_of_another_dtype_is_refused_by_name(assert_refused, make_folder, weights, dtype):
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(dtype)
    assert_refused(
        make_folder(weights), "tensor model.norm.weight has dtype", "F64, F32, F16, BF16"
    )


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


def test_tensors_of_the_vision_side_are_named_not_refused(make_folder, weights, shapes):
    norm = "vision_tower.vision_model.post_layernorm"
    weights |= {f"{norm}.{kind}": np.zeros(4, np.float32) for kind in ("bias", "weight")}
    weights["multi_modal_projector.mm_soft_emb_norm.weight"] = np.zeros(4, np.float32)
    unused = check_tensors(open_checkpoint(make_folder(weights)), shapes)
    assert sorted(left_out(unused)) == [
        "not in the bundle: multi_modal_projector.mm_soft_emb_norm.weight",
        f"not in the bundle: {norm}.bias, {norm}.weight",
    ]


HEADS = ["v_head.summary.weight", "score.weight", "qa_outputs.bias", "regression_head.weight",
         "classifier.weight", "reward_head.0.weight", "audio_tower.x"]  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_a_head_or_module_that_the_class_does_not_have_is_refused_by_name(
    make_folder, weights, shapes, name
):
    weights[name] = np.zeros(4, np.float32)
    with pytest.raises(ArtifactError) as error:
        check_tensors(open_checkpoint(make_folder(weights)), shapes)
    assert f"heads or modules that Gemma 3 as it is exported does not have ({name})" in str(
        error.value
    )


LEFTOVERS = {
    "model.layers.0.mlp.up_proj.weight_scale": np.ones(64, np.float32),
    "model.layers.0.mlp.up_proj.input_scale": np.ones((), np.float32),
    "model.layers.0.mlp.down_proj.weight_shape": np.array([32, 64]),
    "model.layers.0.self_attn.k_scale": np.ones((), np.float32),
    "model.layers.0.self_attn.v_proj.v_scale": np.ones((), np.float32),
    "model.layers.0.mlp.gate_proj.weight.absmax": np.ones(4, np.uint8),
    "model.layers.0.mlp.gate_proj.weight.quant_state.bitsandbytes__nf4": np.ones(4, np.uint8),
    "model.layers.0.mlp.gate_proj.SCB": np.ones(4, np.float32),
}


def test_scales_left_over_beside_plain_weights_are_ignored_as_in_transformers_and_named(
    make_folder, weights, shapes
):
    checkpoint = open_checkpoint(make_folder(weights | LEFTOVERS))
    unused = check_tensors(checkpoint, shapes)
    assert set(unused) == set(LEFTOVERS)
    (note,) = left_out(unused)
    assert note.startswith("scales left over from quantisation are not read, as in transformers: ")
    assert note.endswith(", and 4 more")


@pytest.mark.parametrize("packed", ["weight_packed", "qweight"])
def test_weights_that_are_packed_are_refused(make_folder, weights, shapes, packed):
    del weights["model.layers.0.mlp.up_proj.weight"]
    weights[f"model.layers.0.mlp.up_proj.{packed}"] = np.ones((64, 4), np.float32)
    with pytest.raises(ArtifactError, match=rf"1 missing .*up_proj\.{packed}"):
        check_tensors(open_checkpoint(make_folder(weights | LEFTOVERS)), shapes)


def test_file_that_shrinks_after_opening_is_refused(folder):
    checkpoint = open_checkpoint(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    last = max(checkpoint.tensors.values(), key=lambda source: source.offset)
    with pytest.raises(ArtifactError, match="file ended inside tensor"):
        whole(last)
