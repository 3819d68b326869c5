"""The manifest: everything a host must know about a bundle, defined once.

The JSON file, its JSON Schema and the readers are all derived from these dataclasses.
Nothing here depends on jax: a host in another language reads the same file.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any

from .layout import ITEMSIZE, CacheLayout

FORMAT_VERSION = 3
CONVENTION = 1
"""How programs are called, of what this version knows: see `convention.py`."""


PORTABLE, KERNELS = "portable", "kernels"
"""The variants of a program: for any host, and with custom calls."""


class ProgramName(enum.StrEnum):
    """What a program computes. Files, logs, buckets and the manifest use these names."""

    PREFILL = "prefill"
    DECODE = "decode"
    GENERATE = "generate"
    SCORE = "score"
    CLASSIFY = "classify"
    EMBED = "embed"
    ENCODE_IMAGE = "encode_image"
    PREFILL_IMAGES = "prefill_images"
    SCORE_IMAGES = "score_images"
    CLASSIFY_IMAGES = "classify_images"


@dataclass(frozen=True)
class Axis:
    """A named mesh axis and its number of devices."""

    name: str
    size: int
    """Number of devices along the axis, at least 1."""


@dataclass(frozen=True)
class Mesh:
    """A logical device mesh; devices are numbered in row-major order of the axes."""

    name: str
    """What `--mesh` selects, and the name of the folder of its programs, for example `2x4`."""
    axes: tuple[Axis, ...]
    """The axes, major first."""

    @property
    def devices(self) -> int:
        """Number of devices the mesh needs."""
        return math.prod(axis.size for axis in self.axes)


Spec = tuple[tuple[str, ...], ...]
"""For each dimension the mesh axes it is split over, major first; () is not split."""


@dataclass(frozen=True)
class Tensor:
    """An argument or result of a program: global shape, and how it is split over the mesh."""

    name: str
    shape: tuple[int, ...]
    """Global shape, before it is split."""
    dtype: str
    spec: Spec
    """For each dimension the mesh axes it is split over, major first; [] is not split."""

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor over all devices, one copy."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class Input(Tensor):
    """An input of a program."""

    neutral: float | None
    """What a host that does not know the input fills it with; null: it must be known."""


@dataclass(frozen=True)
class Weight:
    """A tensor of the weight store: `file` relative to the bundle, `offset` from its start."""

    name: str
    """The name of the tensor in the Hugging Face text-only layout."""
    shape: tuple[int, ...]
    dtype: str
    file: str
    """Bundle path of the safetensors file that holds the tensor."""
    offset: int
    """Bytes from the start of the file to the first element, a multiple of 64."""

    @property
    def nbytes(self) -> int:
        """Bytes the tensor occupies in its file."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True, order=True)
class Bucket:
    """One point of the grid of fixed shapes.

    `tokens` is the chunk length of prefill, score and classify, the longest text of embed, 1 for
    decode, and the most tokens one call of generate can emit. `cache` is the number of positions
    a row can hold, 0 where the program keeps none. For encode_image `batch` counts images and
    `tokens` is what each becomes.
    """

    program: ProgramName
    batch: int
    """Rows of a call."""
    tokens: int
    """Tokens of a row in one call."""
    cache: int
    """Positions a row can hold; names one of the manifest's cache layouts. 0: no cache."""


@dataclass(frozen=True)
class Alias:
    """Result `result` is written into the buffer of the donated argument `argument`.

    Indices count the program's flat arguments (weights, inputs, cache) and flat results
    (outputs, cache).
    """

    argument: int
    """Index among (weights..., inputs..., cache...)."""
    result: int
    """Index among (outputs..., cache...)."""


@dataclass(frozen=True)
class Program:
    """A lowered program: called as (weights..., inputs..., cache...) -> (outputs..., cache...).

    `weights` names one of the manifest's weight sets: the tensors to pass, in order.
    """

    mesh: str
    """Name of the mesh the program was partitioned for."""
    platform: str
    bucket: Bucket
    stablehlo: str
    """Bundle path of the portable StableHLO bytecode."""
    jaxexport: str
    """Bundle path of the same lowering as jax.export serialises it."""
    weights: str
    """Name of the weight set to pass."""
    inputs: tuple[Input, ...]
    """In the order in which they are passed; a host finds them by name."""
    outputs: tuple[Tensor, ...]
    cache: tuple[Tensor, ...]
    """Key and value of each layer in turn, then the other state of rows; the last arguments and
    the last results."""
    aliases: tuple[Alias, ...]
    variant: str = PORTABLE
    """`portable` runs on any host; `kernels` calls the custom calls below. No two programs agree
    in mesh, platform, bucket and variant, and a portable one is always there."""
    custom_calls: tuple[str, ...] = ()
    """Targets of XLA's FFI that a host must have registered; empty when portable."""
    forms: dict[str, str] = field(default_factory=dict)
    """For people and tools: which way of lowering was chosen for each part."""
    convention: int = CONVENTION
    """How the program is called; a host refuses a program of a convention it does not know."""


@dataclass(frozen=True)
class MeshRecord:
    """A mesh the bundle was lowered for, and where each weight goes on it."""

    mesh: Mesh
    weight_specs: dict[str, Spec]
    """For each weight, for each of its dimensions, the mesh axes it is split over."""
    fallbacks: tuple[str, ...]
    """Sentences saying which dimension was left whole because it does not divide."""


@dataclass(frozen=True)
class ModelRecord:
    """The model the bundle holds; `config` is the normalised Hugging Face configuration."""

    architecture: str
    """The Hugging Face class name, for example `Gemma3ForCausalLM`."""
    name: str
    """The name of the checkpoint, for people."""
    parameters: int
    """Number of parameters, tied ones counted once."""
    dtype: str
    """The dtype the weights are stored in and the programs compute in."""
    vocab_size: int
    max_position_embeddings: int
    """Positions the model was trained for."""
    sliding_window: int
    """Positions a local layer sees, the current one included."""
    bos_token_id: int
    pad_token_id: int
    eos_token_ids: tuple[int, ...]
    """Tokens that end a text."""
    labels: tuple[str, ...]
    """Names of the classes that `classify` scores, in order; empty when there are none."""
    embedding_size: int
    """Numbers in the vector that `embed` gives; 0 when the bundle has no such program."""
    config: dict[str, Any]
    """The normalised configuration; for people and tools, hosts need none of it."""


@dataclass(frozen=True)
class VisionRecord:
    """What images must look like, and how they stand in a prompt.

    An image is `begin_token_id`, `tokens_per_image` times `soft_token_id`, `end_token_id`. The
    programs put what encode_image made of it in the place of the soft tokens.
    """

    image_size: int
    """Pixels along each side; pictures are resized to it, aspect not kept."""
    channels: str
    """Order of the planes of `pixels`: always `RGB` in this version."""
    mean: tuple[float, ...]
    """Subtracted from each channel, which is between 0 and 1."""
    std: tuple[float, ...]
    """What each channel is divided by afterwards."""
    tokens_per_image: int
    soft_token_size: int
    """Numbers of one soft token."""
    begin_token_id: int
    soft_token_id: int
    end_token_id: int


@dataclass(frozen=True)
class TokenizerRecord:
    """The SentencePiece model of the bundle, and how prompts are prepared with it."""

    path: str
    """Bundle path of the SentencePiece model."""
    kind: str = "sentencepiece"
    """Always `sentencepiece` in this version."""
    add_bos: bool = True
    """True when a prompt of text starts with the model's bos token."""
    add_eos: bool = False
    """True when a text to be classified or embedded ends with the first of `eos_token_ids`."""
    chat_template: str | None = None
    """Bundle path of the Jinja chat template that came with the checkpoint, for reference."""


@dataclass(frozen=True)
class QuantizationRecord:
    """How weights and cache were made smaller; hosts pass the tensors as they are."""

    weights: str
    """`none`, `int8`, `int4` or `fp8`: the matrices of the layers."""
    group: int
    """Inputs that share a scale; 0 when all inputs of an output channel do."""
    embedding: str
    """Same names as `weights`: the embedding, which is the head too when they are tied."""
    cache: str
    """`none` or `int8`: keys and values."""
    rule: str
    """One sentence: which tensors are quantised, how, and which are left."""


@dataclass(frozen=True)
class Array:
    """A named input or output of a signature."""

    name: str
    shape: tuple[int, ...]
    """-1 is any size."""
    dtype: str


@dataclass(frozen=True)
class Signature:
    """A function of the SavedModel, called by name with named tensors."""

    name: str
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


@dataclass(frozen=True)
class SavedModelRecord:
    """The TF SavedModel of the bundle: always a program of one device."""

    path: str
    """Bundle path of the folder TF loads; its last part is the version TF Serving sees."""
    devices: int
    """Always 1: TF runs a SavedModel on one CPU or GPU whatever meshes the bundle has."""
    slots: int
    """Rows whose cache the SavedModel keeps between calls; 0 when it keeps none."""
    signatures: tuple[Signature, ...]


@dataclass(frozen=True)
class FileRecord:
    """A file of the bundle with its size and SHA-256 (hex)."""

    path: str
    """Path relative to the bundle, parts joined by `/`."""
    bytes: int
    sha256: str
    """64 lower-case hexadecimal digits."""


@dataclass(frozen=True)
class Versions:
    """What the programs were lowered with."""

    gemma3_export: str
    jax: str
    jaxlib: str
    stablehlo: str
    """StableHLO version the programs are serialised for."""
    calling_convention: int
    """The calling convention version of jax.export."""


@dataclass(frozen=True)
class Manifest:
    """The whole contract of a bundle."""

    format_version: int
    """Version of this format; a reader refuses one it does not know."""
    abstract: bool
    """True when the bundle has programs but no weights: it can be inspected, not run."""
    model: ModelRecord
    versions: Versions
    meshes: tuple[MeshRecord, ...]
    platforms: tuple[str, ...]
    """Platforms the programs were lowered for: cpu, cuda, tpu."""
    caches: tuple[CacheLayout, ...]
    """One layout for each cache length of the buckets."""
    programs: tuple[Program, ...]
    weights: tuple[Weight, ...]
    weight_sets: dict[str, tuple[str, ...]]
    """Named lists of weights; a program takes one of them as its first arguments."""
    tokenizer: TokenizerRecord | None
    """Null when the checkpoint came without one: token ids are then the only interface."""
    vision: VisionRecord | None = None
    """Null when the bundle takes no images."""
    quantization: QuantizationRecord | None = None
    """Null when weights and cache are in the dtype of the model."""
    score_outputs: tuple[str, ...] = ()
    """What `score` gives besides log-probabilities: `hidden_states`, `attentions`."""
    saved_model: SavedModelRecord | None = None
    """Null when the bundle has no SavedModel."""
    goldens: str | None = None
    """Bundle path of prompts and the tokens they must give; null when it has none."""
    files: tuple[FileRecord, ...] = field(default_factory=tuple)
    """Every file of the bundle but manifest.json itself, in the order of their paths."""
    extensions: dict[str, Any] = field(default_factory=dict)
    """What readers may ignore, by name."""
