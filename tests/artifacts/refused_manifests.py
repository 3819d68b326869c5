"""Changes to the manifest of the tiny bundle with which it is refused, and what is said then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gemma3_export.artifacts.convention import SAMPLING

Edit = Callable[[dict[str, Any]], object]


def setter(*path: Any) -> Edit:
    """An edit that sets the value at a path; the last item is the value."""

    def edit(manifest: dict[str, Any]) -> None:
        *keys, last, value = path
        target: Any = manifest
        for key in keys:
            target = target[key]
        target[last] = value

    return edit


def repeat(*path: Any) -> Edit:
    """An edit that puts the first item of an array there once more."""

    def edit(manifest: dict[str, Any]) -> None:
        target: Any = manifest
        for key in path:
            target = target[key]
        target.insert(0, target[0])

    return edit


def drop_spec(manifest: dict[str, Any]) -> None:
    del manifest["meshes"][0]["weight_specs"]["model.norm.weight"]


def alias_other_shape(manifest: dict[str, Any]) -> None:
    aliases = manifest["programs"][0]["aliases"]
    aliases[0]["result"], aliases[2]["result"] = aliases[2]["result"], aliases[0]["result"]


def reverse_files(manifest: dict[str, Any]) -> None:
    manifest["files"].reverse()


def split_one_cache_otherwise(manifest: dict[str, Any]) -> None:
    program = next(program for program in manifest["programs"] if program["mesh"] == "2x4")
    for tensor in program["cache"]:
        tensor["spec"] = [[], [], [], []]


WEIGHTS, MESH, LAYER = ("weights", 1), ("meshes", 1), ("caches", 0, "layers", 1)
PROGRAM = ("programs", 0)
INPUTS = ("tokens", "start", "length", *(each.name for each in SAMPLING))
"""Of that program, which is a prefill with 6 weights before them and 4 parts of a cache after."""
LAST = 6 + len(INPUTS) + 3
"""Its last argument."""

REFUSED = {
    "absolute path": (setter("files", 0, "path", "/etc/passwd"), "a relative path inside"),
    "path leaving": (setter("files", 0, "path", "a/../../b"), "a relative path inside"),
    "path with backslash": (setter("files", 0, "path", "a\\b"), "a relative path inside"),
    "empty path": (setter("files", 0, "path", ""), "a relative path inside"),
    "manifest as its own file": (
        setter("files", 0, "path", "manifest.json"),
        "another file than the manifest",
    ),
    "file twice": (repeat("files"), "files: expected each name once"),
    "files unsorted": (reverse_files, "in the order of their paths"),
    "negative size": (setter("files", 0, "bytes", -1), "files[0].bytes: expected at least 0"),
    "short digest": (setter("files", 0, "sha256", "abc"), "64 lower-case hexadecimal digits"),
    "vocabulary of nothing": (setter("model", "vocab_size", 0), "vocab_size: expected at least 1"),
    "unknown model dtype": (setter("model", "dtype", "int3"), "model.dtype: expected one of"),
    "weight twice": (repeat("weights"), "weights: expected each name once"),
    "weight of unknown dtype": (setter(*WEIGHTS, "dtype", "F32"), "dtype: expected one of float32"),
    "weight of size 0": (setter(*WEIGHTS, "shape", [8, 0]), "shape: expected at least 1, got 0"),
    "weight of negative size": (setter(*WEIGHTS, "shape", [-8, -8]), "at least 1, got -8"),
    "weight of huge shape": (
        setter(*WEIGHTS, "shape", [2**40, 2**40]),
        "fewer than 2^63 bytes, got 1099511627776x1099511627776",
    ),
    "weight of rank 65": (setter(*WEIGHTS, "shape", [1] * 65), "at most 8 dimensions, got 65"),
    "weight not aligned": (setter(*WEIGHTS, "offset", 1000), "a multiple of 64, got 1000"),
    "weight before the file": (setter(*WEIGHTS, "offset", -64), "offset: expected at least 0"),
    "weight beyond the file": (setter(*WEIGHTS, "offset", 64 * 1000), "an end within"),
    "weight larger than the file": (setter(*WEIGHTS, "shape", [10**6, 10**6]), "an end within"),
    "weights overlapping": (setter("weights", 1, "shape", [8, 16]), "that do not overlap"),
    "weight in unknown file": (setter(*WEIGHTS, "file", "weights/other"), "file: expected one of"),
    "weight set of unknown weight": (
        setter("weight_sets", "text", 0, "lm_head.weight"),
        "weight_sets.text: expected one of model.embed_tokens.weight",
    ),
    "weight set with a weight twice": (repeat("weight_sets", "text"), "each name once"),
    "mesh twice": (repeat("meshes"), "meshes: expected each name once"),
    "axis twice": (repeat(*MESH, "mesh", "axes"), "axes: expected each name once"),
    "axis of nothing": (setter(*MESH, "mesh", "axes", 0, "size", 0), "data: expected at least 1"),
    "mesh of too many devices": (
        setter(*MESH, "mesh", "axes", 0, "size", 2**30),
        "at most 1048576 devices",
    ),
    "weight without a spec": (drop_spec, "a spec for each weight"),
    "spec of unknown weight": (
        setter(*MESH, "weight_specs", "lm_head.weight", [[]]),
        "weight_specs: expected one of",
    ),
    "spec of unknown axis": (
        setter(*MESH, "weight_specs", "model.norm.weight", [["tp"]]),
        "weight_specs.model.norm.weight: expected axes of mesh 2x4",
    ),
    "spec that does not divide": (
        setter(*MESH, "weight_specs", "model.layers.0.input_layernorm.weight", [["model"]]),
        "to divide into 4 parts, got size 5",
    ),
    "cache layout twice": (repeat("caches"), "caches: expected each name once"),
    "cache of nothing": (setter("caches", 0, "cache", 0), "cache: expected at least 1"),
    "ring longer than the cache": (
        setter("caches", 0, "layers", 0, "slots", 17),
        "slots: expected at most 16, got 17",
    ),
    "full layer that is too short": (setter(*LAYER, "slots", 15), "slots: expected 16, got 15"),
    "cache of unknown dtype": (setter(*LAYER, "dtype", "float7"), "dtype: expected one of"),
    "platform twice": (repeat("platforms"), "platforms: expected each name once"),
    "tokenizer missing": (setter("tokenizer", "path", "tokenizer/x"), "tokenizer.path: expected"),
    "tokenizer of unknown kind": (setter("tokenizer", "kind", "bpe"), "kind: expected sentence"),
    "chat template missing": (
        setter("tokenizer", "chat_template", "tokenizer/x"),
        "tokenizer.chat_template: expected one of",
    ),
    "program twice": (repeat("programs"), "programs: expected each name once"),
    "program of unknown name": (
        setter(*PROGRAM, "bucket", "program", "dance"),
        "expected one of prefill, decode, generate, score",
    ),
    "program for unknown mesh": (setter(*PROGRAM, "mesh", "8x8"), "mesh: expected one of 1x1"),
    "program for unknown platform": (
        setter(*PROGRAM, "platform", "tpu"),
        "platform: expected one of cpu, got tpu",
    ),
    "program with unknown weights": (
        setter(*PROGRAM, "weights", "vision"),
        "weights: expected one of text, got vision",
    ),
    "program without its file": (
        setter(*PROGRAM, "stablehlo", "programs/x.mlirbc"),
        "stablehlo: expected one of",
    ),
    "program without its export": (
        setter(*PROGRAM, "jaxexport", "programs/x.jaxexport"),
        "jaxexport: expected one of",
    ),
    "program with unknown cache": (
        setter(*PROGRAM, "bucket", "cache", 32),
        "bucket.cache: expected one of 16, got 32",
    ),
    "program of no rows": (setter(*PROGRAM, "bucket", "batch", 0), "batch: expected at least 1"),
    "program of no tokens": (
        setter(*PROGRAM, "bucket", "tokens", 0),
        "tokens: expected at least 1",
    ),
    "chunk longer than the cache": (
        setter(*PROGRAM, "bucket", "tokens", 17),
        "tokens: expected at most 16, got 17",
    ),
    "classes that have no name": (setter("model", "labels", []), "scores float32[2,0]"),
    "embedding of nothing": (setter("model", "embedding_size", 0), "embedding float32[2,0]"),
    "embedding of less than nothing": (
        setter("model", "embedding_size", -1),
        "model.embedding_size: expected at least 0",
    ),
    "embed with a cache": (
        setter("programs", 5, "bucket", "cache", 16),
        "bucket.cache: expected one of 0, got 16",
    ),
    "images that nothing describes": (
        setter("vision", None),
        "vision: expected an object, for program encode_image, got null",
    ),
    "pictures of no pixels": (setter("vision", "image_size", 0), "image_size: expected at least 1"),
    "channels in another order": (
        setter("vision", "channels", "BGR"),
        "vision.channels: expected RGB, got",
    ),
    "mean of too few channels": (setter("vision", "mean", [0.5]), "mean: expected a number for"),
    "deviation of nothing": (setter("vision", "std", [0.5, 0.0, 0.5]), "std: expected numbers abo"),
    "soft token that is no id": (
        setter("vision", "soft_token_id", -1),
        "vision.soft_token_id: expected at least 0",
    ),
    "image of another number of tokens": (
        setter("vision", "tokens_per_image", 9),
        "bucket.tokens: expected 9, got 4",
    ),
    "soft tokens of another size": (
        setter("vision", "soft_token_size", 9),
        "expected soft_tokens float32[2,4,9], got soft_tokens float32[2,4,8]",
    ),
    "decode of two tokens": (
        setter("programs", 1, "bucket", "tokens", 2),
        "tokens: expected at most 1, got 2",
    ),
    "input of another dtype": (
        setter(*PROGRAM, "inputs", 0, "dtype", "uint32"),
        "inputs[0]: expected tokens int32[2,4], got tokens uint32[2,4]",
    ),
    "input of another shape": (
        setter(*PROGRAM, "inputs", 1, "shape", [3]),
        "inputs[1]: expected start int32[2], got start int32[3]",
    ),
    "input missing": (
        setter(*PROGRAM, "inputs", []),
        "inputs: expected an input tokens int32[2,4], got none",
    ),
    "input twice": (
        lambda manifest: manifest["programs"][0]["inputs"].append(
            manifest["programs"][0]["inputs"][0]
        ),
        "inputs: expected each name once, got tokens twice",
    ),
    "input that must be known": (
        setter(*PROGRAM, "inputs", 1, "name", "new"),
        f"inputs[1]: expected one of {', '.join(INPUTS)}, or an input with a neutral value, got "
        "new int32[2]",
    ),
    "input with another neutral value": (
        setter(*PROGRAM, "inputs", 5, "neutral", 0),
        "inputs[5]: expected top_p float32[2], neutral 1, got top_p float32[2], neutral 0",
    ),
    "neutral value that its dtype does not hold": (
        lambda manifest: manifest["programs"][0]["inputs"].append(
            {"name": "new", "shape": [2], "dtype": "int32", "spec": [[]], "neutral": 0.5}
        ),
        f"inputs[{len(INPUTS)}].neutral: expected a value of float32, int32 or uint32, got "
        "new int32[2], neutr",
    ),
    "neutral value of another dtype": (
        lambda manifest: manifest["programs"][0]["inputs"].append(
            {"name": "new", "shape": [2], "dtype": "bfloat16", "spec": [[]], "neutral": 0}
        ),
        f"inputs[{len(INPUTS)}].neutral: expected a value of float32, int32 or uint32, got "
        "new bfloat16[2]",
    ),
    "convention that is unknown": (
        setter(*PROGRAM, "convention", 2),
        "convention: expected 1, got 2",
    ),
    "state of a shape that cannot be": (
        setter("caches", 0, "state", [{"name": "new", "shape": [0], "dtype": "int32"}]),
        "caches[0].state[0].shape: expected at least 1, got 0",
    ),
    "state that programs do not have": (
        setter("caches", 0, "state", [{"name": "new", "shape": [2], "dtype": "int32"}]),
        "cache: expected 5 tensors, got 4",
    ),
    "output of another name": (
        setter(*PROGRAM, "outputs", 0, "name", "next"),
        "outputs[0]: expected token int32[2], got next int32[2]",
    ),
    "cache other than its layout": (
        setter(*PROGRAM, "cache", 0, "shape", [2, 1, 16, 4]),
        "cache[0]: expected cache.0.key bfloat16[2,1,8,4], got cache.0.key bfloat16[2,1,16,4]",
    ),
    "input with a spec of unknown axis": (
        setter(*PROGRAM, "inputs", 0, "spec", [["tp"], []]),
        "inputs[0].spec: expected axes of mesh 1x1",
    ),
    "cache split unlike that of its neighbours": (
        split_one_cache_otherwise,
        "the specs of the other programs",
    ),
    "alias of a weight": (
        setter(*PROGRAM, "aliases", 0, "argument", 5),
        f"aliases[0]: expected an argument from 6 to {LAST}, got 5",
    ),
    "alias of no argument": (
        setter(*PROGRAM, "aliases", 0, "argument", LAST + 1),
        f"aliases[0]: expected an argument from 6 to {LAST}, got {LAST + 1}",
    ),
    "alias of no result": (
        setter(*PROGRAM, "aliases", 0, "result", -1),
        "aliases[0]: expected a result from 0 to 5, got -1",
    ),
    "alias twice": (repeat(*PROGRAM, "aliases"), "aliases: expected each name once"),
    "alias of other shape": (alias_other_shape, "the shape, dtype and spec of cache.0.key"),
}
