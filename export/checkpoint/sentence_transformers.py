"""What sentence-transformers keeps beside a model: pooling, layers after it, task prompts.

`modules.json` says which modules there are, in which folders and in which order; each is read as
sentence-transformers 5.4 reads it, and what it has that is not computed here is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from ...artifacts.errors import ArtifactError
from ...artifacts.prompts import TaskPrompts
from ...model.embedding import Activation, DenseLayer, EmbeddingHead, Normalize, Pooling
from .base import read_bytes, read_json
from .safetensors_header import read_safetensors
from .sentence_transformers_config import check_transformer, read_prompts
from .tensors import TensorSource

MODULES = "modules.json"
_CONFIG = "config.json"
_TRANSFORMER, _POOLING, _DENSE, _NORMALIZE, _DROPOUT = (
    "Transformer", "Pooling", "Dense", "Normalize", "Dropout",
)  # fmt: skip
_ENTRY = {"idx", "name", "path", "type", "kwargs"}
_SENTENCE = "sentence_embedding"
# The folders of a model that was stored without modules.json.
_USUAL_POOLING, _USUAL_DENSE = "1_Pooling", ("2_Dense", "3_Dense")
_OLD_MODES = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LENGTH,
    "pooling_mode_weightedmean_tokens": Pooling.WEIGHTED_MEAN,
    "pooling_mode_lasttoken": Pooling.LAST_TOKEN,
}
"""The old way to name modes, in the order in which their vectors are joined."""
_POOLING_KEYS = {
    "word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt",
    *_OLD_MODES,
}  # fmt: skip
_DENSE_KEYS = {
    "in_features", "out_features", "bias", "activation_function", "module_input_name",
    "module_output_name", "use_residual",
    "dtype", "torch_dtype",  # of the file, which says so itself
}  # fmt: skip


@dataclass(frozen=True)
class Embedder:
    """What the folder says of vectors.

    Attributes:
        head: pooling and what follows; None in a folder that says nothing of them.
        tensors: weights and biases of the dense layers, `dense.N.weight` and `dense.N.bias`.
        prompts: task prompts, or None.
        notes: what was assumed or is not computed, for people.
    """

    head: EmbeddingHead | None = None
    tensors: dict[str, TensorSource] = field(default_factory=dict)
    prompts: TaskPrompts | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Module:
    kind: str
    folder: Path


def read_embedder(folder: Path, hidden_size: int, assumed: bool) -> Embedder:
    """What sentence-transformers would compute of the hidden states of the model in `folder`.

    Args:
        folder: with the model, and modules.json if it was stored by sentence-transformers.
        hidden_size: numbers in a hidden state.
        assumed: whether a folder without modules.json is an embedding model: the mean over the
            tokens, the dense layers in 2_Dense and 3_Dense, and length 1.

    Raises:
        ArtifactError: a file is damaged, or asks for something that is not computed here.
    """
    listed = (folder / MODULES).is_file()
    if not listed and not assumed:
        return Embedder()
    modules = _listed_modules(folder) if listed else _usual_modules(folder)
    pooling, include_prompt = (Pooling.MEAN,), True
    layers: list[DenseLayer | Normalize] = []
    tensors: dict[str, TensorSource] = {}
    for module in modules:
        if module.kind == _POOLING:
            pooling, include_prompt = _read_pooling(module.folder / _CONFIG, hidden_size)
        elif module.kind == _DENSE:
            number = len([layer for layer in layers if isinstance(layer, DenseLayer)])
            layer, weights = _read_dense(module.folder)
            layers.append(layer)
            tensors |= {f"dense.{number}.{name}": source for name, source in weights.items()}
        elif module.kind == _NORMALIZE:
            _check_normalize(module.folder / _CONFIG)
            layers.append(Normalize())
    prompts, notes = read_prompts(folder, include_prompt)
    notes = (*notes, *check_transformer(folder))
    if not listed:
        names = [module.folder.name for module in modules if module.kind == _DENSE]
        through = f", through {' and '.join(names)}" if names else ""
        notes = (
            f"no {MODULES}: the vector of a text is taken to be pooled by "
            f"{' and '.join(pooling)} over its tokens{through}, of length 1",
            *notes,
        )
    return Embedder(EmbeddingHead(pooling, tuple(layers)), tensors, prompts, notes)


def _usual_modules(folder: Path) -> list[_Module]:
    pooling = folder / _USUAL_POOLING
    modules = [_Module(_POOLING, pooling)] if (pooling / _CONFIG).is_file() else []
    dense = [folder / name for name in _USUAL_DENSE if (folder / name).is_dir()]
    return [*modules, *(_Module(_DENSE, path) for path in dense), _Module(_NORMALIZE, folder / "-")]


def _listed_modules(folder: Path) -> list[_Module]:
    """The modules of modules.json after the model itself, in order, without those of training."""
    path = folder / MODULES
    modules = [_listed_module(path, entry) for entry in _read_list(path)]
    kinds = [module.kind for module in modules]
    after = {_DENSE, _NORMALIZE, _DROPOUT}
    if kinds[:2] != [_TRANSFORMER, _POOLING] or not set(kinds[2:]) <= after:
        _refuse(
            path, "", f"{_TRANSFORMER}, {_POOLING}, then any of {', '.join(sorted(after))}",
            ", ".join(kinds) or "none",
        )  # fmt: skip
    if modules[0].folder.resolve() != folder.resolve():
        _refuse(
            path, f"path of {_TRANSFORMER}", "an empty one: the weights beside modules.json",
            modules[0].folder.name,
        )  # fmt: skip
    return [module for module in modules[1:] if module.kind != _DROPOUT]


def _read_list(path: Path) -> list[Any]:
    try:
        value = json.loads(read_bytes(path))
    except ArtifactError:  # says what is wrong already
        raise
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8
        _refuse(path, "", "a JSON list", f"text that is not ({error})")
    if not isinstance(value, list):
        _refuse(path, "", "a JSON list", type(value).__name__)
    return value


def _listed_module(path: Path, entry: Any) -> _Module:
    if not isinstance(entry, dict):
        _refuse(path, "", "a list of objects", repr(entry))
    _check_keys(path, entry, _ENTRY)
    kind, folder_name = entry.get("type"), entry.get("path")
    if not isinstance(kind, str) or not isinstance(folder_name, str):
        _refuse(path, "", "modules with a type and a path", repr(entry))
    name = kind.rpartition(".")[2]
    known = (_TRANSFORMER, _POOLING, _DENSE, _NORMALIZE, _DROPOUT)
    if not kind.startswith("sentence_transformers.") or name not in known:
        _refuse(path, "type", f"{', '.join(known)} of sentence_transformers", kind)
    if entry.get("kwargs"):
        _refuse(path, f"kwargs of {name}", "none", repr(entry["kwargs"]))
    relative = PurePosixPath(folder_name)
    if (
        relative.is_absolute()
        or ".." in relative.parts
        or "\\" in folder_name
        or "\0" in folder_name
    ):
        _refuse(path, f"path of {name}", "a folder inside the model's", folder_name)
    return _Module(name, path.parent / relative)


def _read_pooling(path: Path, hidden_size: int) -> tuple[tuple[Pooling, ...], bool]:
    """The modes whose vectors are joined, and whether a prompt's tokens are pooled, too."""
    config = read_json(path)
    _check_keys(path, config, _POOLING_KEYS)
    for key in ("word_embedding_dimension", "embedding_dimension"):
        if config.get(key, hidden_size) != hidden_size:
            _refuse(path, key, f"the model's {hidden_size}", repr(config[key]))
    include_prompt = config.get("include_prompt", True)
    if not isinstance(include_prompt, bool):
        _refuse(path, "include_prompt", "true or false", repr(include_prompt))
    if "pooling_mode" not in config:
        modes = tuple(mode for key, mode in _OLD_MODES.items() if config.get(key) is True)
        for key in set(_OLD_MODES) & config.keys():
            if not isinstance(config[key], bool):
                _refuse(path, key, "true or false", repr(config[key]))
        return modes or (Pooling.MEAN,), include_prompt
    value = config["pooling_mode"]
    names = value if isinstance(value, list) else [value]
    if not names or any(name not in tuple(Pooling) for name in names):
        _refuse(path, "pooling_mode", f"one or a list of {', '.join(Pooling)}", repr(value))
    return tuple(Pooling(name) for name in names), include_prompt


def _read_dense(folder: Path) -> tuple[DenseLayer, dict[str, TensorSource]]:
    """A dense layer and its tensors, `weight` and perhaps `bias`."""
    path = folder / _CONFIG
    config = read_json(path)
    _check_keys(path, config, _DENSE_KEYS)
    _check_names(path, config)
    if config.get("use_residual", False) is not False:
        _refuse(path, "use_residual", "false", repr(config["use_residual"]))
    tensors = _layer_tensors(folder / "model.safetensors")
    rows, columns = tensors["weight"].shape
    for key, size in (("in_features", columns), ("out_features", rows)):
        if config.get(key) != size:
            _refuse(path, key, f"{size}, as in {folder.name}/model.safetensors",
                    repr(config.get(key)))  # fmt: skip
    bias = config.get("bias", True)
    if bias is not ("bias" in tensors):
        stored = "a linear.bias" if "bias" in tensors else "no linear.bias"
        _refuse(path, "bias", f"what model.safetensors has: {stored}", repr(bias))
    return DenseLayer(rows, bias, _activation(path, config)), tensors


def _activation(path: Path, config: Mapping[str, Any]) -> Activation:
    # Without a word sentence-transformers makes a Tanh.
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    known = tuple(Activation)
    short = name.rpartition(".")[2] if isinstance(name, str) else ""
    if short not in known or not name.startswith("torch.nn."):
        _refuse(path, "activation_function", f"torch's {', '.join(known)}", repr(name))
    return Activation(short)


def _layer_tensors(path: Path) -> dict[str, TensorSource]:
    if not path.is_file():
        raise ArtifactError(
            f"{path.parent}: expected {path.name}, got no such file; download it into the "
            "folder, or save the model again with safe_serialization=True"
        )
    tensors = read_safetensors(path)
    shapes = {name: len(source.shape) for name, source in tensors.items()}
    if shapes not in ({"linear.weight": 2}, {"linear.weight": 2, "linear.bias": 1}):
        raise ArtifactError(
            f"{path}: expected a matrix linear.weight and at most a vector linear.bias, got "
            f"{', '.join(shapes) or 'nothing'}; download the file again"
        )
    return {name.removeprefix("linear."): source for name, source in tensors.items()}


def _check_normalize(path: Path) -> None:
    if path.is_file():
        config = read_json(path)
        _check_keys(path, config, {"module_input_name", "module_output_name"})
        _check_names(path, config)


def _check_names(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a module that reads or writes anything but the vector of the text."""
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, _SENTENCE):
            _refuse(path, key, _SENTENCE, repr(config[key]))


def _check_keys(path: Path, config: Mapping[str, Any], known: set[str]) -> None:
    for key in sorted(config.keys() - known):
        _refuse(path, "", f"only {', '.join(sorted(known))}", f"an unknown key {key!r}")


def _refuse(path: Path, key: str, expected: str, got: str) -> NoReturn:
    place = f"{path}: {key}: " if key else f"{path}: "
    text = " ".join(got.split())[:120]
    raise ArtifactError(
        f"{place}expected {expected}, got {text}; export a model whose vectors are made that way"
    )
