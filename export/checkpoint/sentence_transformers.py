"""What sentence-transformers keeps beside a model: how to pool it, and dense layers."""

from __future__ import annotations

from pathlib import Path

from ...artifacts.errors import ArtifactError
from .base import read_json
from .safetensors_header import read_safetensors
from .tensors import TensorSource

_POOLING = "1_Pooling"
_DENSE = ("2_Dense", "3_Dense")
_IDENTITY = "Identity"


def dense_tensors(folder: Path) -> dict[str, TensorSource]:
    """Weights and biases of the dense layers as `dense.N.weight` and `.bias`; {} without any.

    Raises:
        ArtifactError: a layer is damaged, has another activation than the identity, or follows
            another pooling than the mean over tokens.
    """
    _check_pooling(folder / _POOLING / "config.json")
    found: dict[str, TensorSource] = {}
    layers = [folder / name for name in _DENSE if (folder / name).is_dir()]
    for number, layer in enumerate(layers):
        _check_activation(layer / "config.json")
        for name, source in _layer_tensors(layer / "model.safetensors").items():
            found[f"dense.{number}.{name.removeprefix('linear.')}"] = source
    return found


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
    return tensors


def _check_pooling(path: Path) -> None:
    if not path.is_file():
        return
    config = read_json(path)
    modes = sorted(
        name for name, value in config.items() if name.startswith("pooling_mode_") and value is True
    )
    if modes and modes != ["pooling_mode_mean_tokens"]:
        raise ArtifactError(
            f"{path}: expected pooling_mode_mean_tokens alone, got {', '.join(modes)}; "
            "export a model that pools by the mean"
        )


def _check_activation(path: Path) -> None:
    # sentence-transformers' own default is Tanh.
    activation = read_json(path).get("activation_function", "torch.nn.modules.activation.Tanh")
    if str(activation).rpartition(".")[2] != _IDENTITY:
        raise ArtifactError(
            f"{path}: activation_function: expected {_IDENTITY}, got {activation!r}; export a "
            "model whose dense layers are linear"
        )
