import jax
import pytest
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.artifacts.manifest import Axis, Mesh, Spec
from gemma3_export.artifacts.sharding import device_bytes, shard_shape
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

MESH = Mesh("2x4", (Axis("data", 2), Axis("model", 4)))


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), ()),
        ((8,), ((),)),
        ((8, 12), (("data",), ("model",))),
        ((16, 3), (("model", "data"), ())),
        ((2, 5, 8), ((), (), ("data", "model"))),
    ],
)
def test_shard_shape_is_what_jax_gives_each_device(shape: tuple[int, ...], spec: Spec):
    mesh = AbstractMesh((2, 4), ("data", "model"))
    sharding = NamedSharding(mesh, PartitionSpec(*(axes or None for axes in spec)))
    assert shard_shape(shape, spec, MESH) == sharding.shard_shape(shape)


def test_device_bytes_counts_one_part():
    assert device_bytes((16, 3), "bfloat16", (("model",), ()), MESH) == 4 * 3 * 2


def test_devices_are_numbered_in_row_major_order_of_the_axes():
    """FORMAT.md: device d of mesh 2x4 has data = d // 4 and model = d % 4."""
    devices = jax.devices()[:8]
    mesh = jax.make_mesh((2, 4), ("data", "model"), devices=devices)
    sharding = NamedSharding(mesh, PartitionSpec(("model", "data")))
    for number, device in enumerate(devices):
        data, model = divmod(number, 4)
        (held,) = sharding.devices_indices_map((16,))[device]
        assert held.start == (model * 2 + data) * 2  # major axis first


@pytest.mark.parametrize(
    ("shape", "spec", "message"),
    [
        ((8, 8), ((),), "spec of 2 dimensions, got 1"),
        ((8,), (("tp",),), r"axes of mesh 2x4 \(data, model\), got tp"),
        ((8, 8), (("data",), ("data",)), "each axis at most once"),
        ((8, 6), ((), ("model",)), "dimension 1 to divide into 4 parts, got size 6"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(shape: tuple[int, ...], spec: Spec, message: str):
    with pytest.raises(ArtifactError, match=message):
        shard_shape(shape, spec, MESH)
