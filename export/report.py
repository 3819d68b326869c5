"""What an export tells its user at the end: a table, or the same as data."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from ..artifacts.inspect.summary import format_bytes
from ..artifacts.inspect.tables import numbers, print_table, texts
from ..artifacts.manifest import Mesh, MeshRecord, Program, Tensor, Weight
from ..artifacts.memory import largest_child_bytes, peak_rss_bytes
from ..artifacts.sharding import device_bytes
from .pipeline import ExportResult
from .tuning_report import print_tuning, tuning_data


def result_data(result: ExportResult, workers: int) -> dict[str, Any]:
    """The export as JSON values: one entry per program, sizes in bytes, times in seconds.

    `workers` is how many processes lowered at a time, this one when it is 1.
    """
    manifest = result.manifest
    return {
        "bundle": str(result.out),
        "model": manifest.model.name,
        "parameters": manifest.model.parameters,
        "dtype": manifest.model.dtype,
        "abstract": manifest.abstract,
        "weights_bytes": sum(weight.nbytes for weight in manifest.weights),
        "programs": _programs(result),
        "fallbacks": {record.mesh.name: list(record.fallbacks) for record in manifest.meshes},
        "notes": list(result.notes),
        "tuning": None if result.tuning is None else tuning_data(result.tuning),
        "seconds": round(result.seconds, 3),
        "peak_rss_bytes": _peak_rss_bytes(result, workers),
    }


def print_result(console: Console, data: dict[str, Any]) -> None:
    """The end-of-export table, after what was measured if anything was."""
    if data["tuning"] is not None:
        print_tuning(console, data["tuning"])
    several = len({row["variant"] for row in data["programs"]}) > 1
    rows = [
        (
            row["mesh"], row["platform"], row["program"], *[row["variant"]] * several,
            str(row["batch"]), str(row["tokens"]),
            str(row["cache"]), format_bytes(row["argument_bytes"]),
            format_bytes(row["program_bytes"]), f"{row['seconds']:.1f}",
            format_bytes(row["device_bytes"]),
        )
        for row in data["programs"]
    ]  # fmt: skip
    columns = [
        *texts("mesh", "platform", "program", *["variant"] * several),
        *numbers("batch", "tokens", "cache", "arguments", "StableHLO", "seconds", "per device*"),
    ]
    print_table(console, "", columns, rows, box=False)
    console.print(
        "* without temporaries, which only a compiler tells: gemma3-bundle verify asks it"
    )
    for mesh, fallbacks in data["fallbacks"].items():
        for sentence in fallbacks:
            console.print(f"{mesh}: {sentence}", style="yellow")
    for note in data["notes"]:
        console.print(f"note: {note}", style="yellow")
    kind = "programs only, no weights" if data["abstract"] else data["dtype"]
    console.print(
        f"{data['bundle']}: {data['model']}, {data['parameters']:,} parameters, {kind}, "
        f"{len(data['programs'])} programs in {data['seconds']:.1f} s, "
        f"peak memory {format_bytes(data['peak_rss_bytes'])}"
    )


def _programs(result: ExportResult) -> list[dict[str, Any]]:
    manifest = result.manifest
    meshes = {record.mesh.name: record for record in manifest.meshes}
    weights = {weight.name: weight for weight in manifest.weights}
    sizes = {record.path: record.bytes for record in manifest.files}
    rows = []
    for lowered in result.lowered:
        program, bucket = lowered.program, lowered.program.bucket
        used = [weights[name] for name in manifest.weight_sets[program.weights]]
        arguments = [*used, *program.inputs, *program.cache]
        rows.append(
            {
                "mesh": program.mesh,
                "platform": program.platform,
                "program": str(bucket.program),
                "variant": program.variant,
                "batch": bucket.batch,
                "tokens": bucket.tokens,
                "cache": bucket.cache,
                "argument_bytes": sum(argument.nbytes for argument in arguments),
                "program_bytes": sizes[program.stablehlo],
                "seconds": round(lowered.seconds, 3),
                "device_bytes": _device_bytes(program, used, meshes[program.mesh]),
            }
        )
    return rows


def _device_bytes(program: Program, weights: list[Weight], record: MeshRecord) -> int:
    """Weights, inputs, outputs and cache on one device; the donated cache counts once.

    Without temporaries, which only compiling tells: runtime/checks/temporaries.py.
    """
    tensors = (*program.inputs, *program.outputs, *program.cache)
    return sum(
        device_bytes(w.shape, w.dtype, record.weight_specs[w.name], record.mesh) for w in weights
    ) + sum(_tensor_bytes(tensor, record.mesh) for tensor in tensors)


def _tensor_bytes(tensor: Tensor, mesh: Mesh) -> int:
    return device_bytes(tensor.shape, tensor.dtype, tensor.spec, mesh)


def _peak_rss_bytes(result: ExportResult, workers: int) -> int:
    """Peak resident memory of this process with what ran beside it.

    That is the workers, each as large as the largest, and later one process at a time.
    """
    lowering = workers * result.largest_worker_bytes if workers > 1 else 0
    return peak_rss_bytes() + max(lowering, largest_child_bytes())
