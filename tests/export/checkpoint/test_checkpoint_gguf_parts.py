"""GGUF files in parts, and folders that hold them."""

import struct

import gguf
import numpy as np
from gemma3_export.export.checkpoint import (
    check_tensors,
    open_checkpoint,
)

from .test_checkpoint_gguf import whole

EMBEDDING = "model.embed_tokens.weight"


def split(path, parts):
    """The GGUF split with the tensors dealt out in turn, as llama-gguf-split names them."""
    reader = gguf.GGUFReader(path)
    names = [path.with_name(f"tiny-{n + 1:05d}-of-{parts:05d}.gguf") for n in range(parts)]
    for number, name in enumerate(names):
        writer = gguf.GGUFWriter(name, "gemma3")
        for key, field in reader.fields.items():
            if number == 0 and key.startswith(("gemma3.", "general.name")):
                writer.add_key_value(key, field.contents(), field.types[0])
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", parts)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number::parts]:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    path.unlink()
    return names


def test_split_file_opens_from_any_part_and_from_its_folder(make_gguf, weights, shapes):
    parts = split(make_gguf(), 3)
    for path in (*parts, parts[0].parent):
        checkpoint = open_checkpoint(path)
        assert check_tensors(checkpoint, shapes) == ()
        assert checkpoint.config["hidden_size"] == 32
        for name, value in weights.items():
            np.testing.assert_array_equal(whole(checkpoint.tensors[name]), value)


def test_missing_part_of_a_split_file_is_refused_by_name(assert_refused, make_gguf):
    parts = split(make_gguf(), 3)
    parts[1].unlink()
    assert_refused(parts[0], "tiny-00002-of-00003.gguf: part of a split GGUF is missing")


def test_parts_of_different_splits_are_refused(assert_refused, make_gguf):
    parts = split(make_gguf(), 2)
    first = parts[0].read_bytes()
    parts[1].write_bytes(first)
    assert_refused(parts[0], "tiny-00002-of-00002.gguf: expected part 2 of 2", "got part 1 of 2")
    number = struct.pack("<Q8sI", 8, b"split.no", gguf.GGUFValueType.UINT16)
    parts[1].write_bytes(first.replace(number + b"\0", number + b"\1"))
    assert_refused(parts[0], "tiny-00002-of-00002.gguf: tensor", "is also in tiny-00001-of-00002")


def test_a_part_under_another_name_is_refused_with_the_remedy(assert_refused, make_gguf):
    part = split(make_gguf(), 3)[1]
    blob = part.rename(part.with_name("sha256-0123"))
    assert_refused(
        blob, "expected part 1 of 1, as it is named, got part 2 of 3", "NAME-00001-of-00003.gguf",
        "llama-gguf-split --merge",
    )  # fmt: skip


def test_folder_with_one_gguf_is_opened_and_with_two_refused(assert_refused, make_gguf, config):
    path = make_gguf()
    (path.parent / "config.json").write_text("{}")  # without safetensors it does not count
    assert open_checkpoint(path.parent).name == "Tiny"
    make_gguf(name="other.gguf")
    assert_refused(path.parent, "holds 2 GGUF models", "other.gguf, tiny.gguf", "pass one file")
