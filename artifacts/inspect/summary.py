"""What a bundle holds, as data (`inspect --json`) and as tables for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from ..bundle import Bundle
from ..codec import encode
from ..layout import CacheLayout, LayerKind
from ..manifest import MeshRecord, Program, Tensor
from ..sharding import device_bytes
from .tables import numbers, print_table, texts


def summarize(bundle: Bundle) -> dict[str, Any]:
    """The bundle in figures; bytes are exact, keys are stable."""
    manifest = bundle.manifest
    model = encode(manifest.model)
    del model["config"]
    return {
        "bundle": str(bundle.root),
        "format_version": manifest.format_version,
        "abstract": manifest.abstract,
        "model": model,
        "versions": encode(manifest.versions),
        "platforms": list(manifest.platforms),
        "meshes": [_mesh(bundle, record) for record in manifest.meshes],
        "programs": [_program(bundle, program) for program in manifest.programs],
        "caches": [_cache(layout) for layout in manifest.caches],
        "weights": {
            "count": len(manifest.weights),
            "bytes": sum(weight.nbytes for weight in manifest.weights),
            "files": [] if manifest.abstract else list(bundle.weight_files),
        },
        "tokenizer": encode(manifest.tokenizer),
        "vision": encode(manifest.vision),
        "files": {
            "count": len(manifest.files),
            "bytes": sum(record.bytes for record in manifest.files),
        },
    }


def _mesh(bundle: Bundle, record: MeshRecord) -> dict[str, Any]:
    weights = sum(
        device_bytes(weight.shape, weight.dtype, record.weight_specs[weight.name], record.mesh)
        for weight in bundle.manifest.weights
    )
    return {
        "name": record.mesh.name,
        "axes": {axis.name: axis.size for axis in record.mesh.axes},
        "devices": record.mesh.devices,
        "weight_bytes_per_device": weights,
        "fallbacks": list(record.fallbacks),
    }


def _program(bundle: Bundle, program: Program) -> dict[str, Any]:
    sizes = {record.path: record.bytes for record in bundle.manifest.files}
    mesh = bundle.mesh(program.mesh).mesh

    def per_device(tensors: Iterable[Tensor]) -> int:
        return sum(device_bytes(t.shape, t.dtype, t.spec, mesh) for t in tensors)

    return {
        "mesh": program.mesh,
        "platform": program.platform,
        **encode(program.bucket),
        "stablehlo": program.stablehlo,
        "stablehlo_bytes": sizes[program.stablehlo],
        "jaxexport": program.jaxexport,
        "jaxexport_bytes": sizes[program.jaxexport],
        "cache_bytes_per_device": per_device(program.cache),
        "input_bytes_per_device": per_device(program.inputs),
        "output_bytes_per_device": per_device(program.outputs),
        "donated": len(program.aliases),
    }


def _cache(layout: CacheLayout) -> dict[str, Any]:
    rings = [layer for layer in layout.layers if layer.kind is LayerKind.RING]
    return {
        "cache": layout.cache,
        "layers": len(layout.layers),
        "ring_layers": len(rings),
        "ring_slots": sorted({layer.slots for layer in rings}),
        "bytes_per_row": layout.bytes_per_row,
        "uniform_bytes_per_row": layout.uniform_bytes_per_row,
    }


def print_summary(console: Console, summary: dict[str, Any]) -> None:
    """The summary as tables; `console` must not interpret markup, names come from files."""
    table = Table(title=summary["bundle"], title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a path that is too long is not cut
    for name, value in _facts(summary).items():
        table.add_row(name, value)
    console.print(table)
    _print_meshes(console, summary["meshes"])
    if summary["caches"]:
        _print_caches(console, summary["caches"])
    _print_programs(console, summary["programs"])


def _facts(summary: dict[str, Any]) -> dict[str, str]:
    model, weights, files = summary["model"], summary["weights"], summary["files"]
    tokenizer, versions = summary["tokenizer"], summary["versions"]
    if summary["abstract"]:
        stored = f"none (abstract bundle; a real one has {format_bytes(weights['bytes'])})"
    else:
        where = ", ".join(weights["files"])
        stored = f"{weights['count']} tensors, {format_bytes(weights['bytes'])}, {where}"
    if tokenizer is None:
        prompts = "none, token ids only"
    else:
        prompts = f"{tokenizer['path']}, {'bos' if tokenizer['add_bos'] else 'no bos'} added"
    heads = {"classes": ", ".join(model["labels"])} if model["labels"] else {}
    if model["embedding_size"]:
        heads["embedding"] = f"{model['embedding_size']} numbers"
    return {
        "model": f"{model['name']} ({model['architecture']})",
        "parameters": f"{model['parameters']:,}, {model['dtype']}",
        "vocabulary": f"{model['vocab_size']:,} tokens, stops at {model['eos_token_ids']}",
        "window": f"{model['sliding_window']} of {model['max_position_embeddings']:,} positions",
        **heads,
        **_vision_fact(summary["vision"]),
        "weights": stored,
        "tokenizer": prompts,
        "files": f"{files['count']} files, {format_bytes(files['bytes'])}",
        "made by": f"gemma3-export {versions['gemma3_export']}, jax {versions['jax']}, "
        f"jaxlib {versions['jaxlib']}, StableHLO {versions['stablehlo']}, "
        f"format {summary['format_version']}",
    }


def _vision_fact(vision: dict[str, Any] | None) -> dict[str, str]:
    if vision is None:
        return {}
    size = f"{vision['image_size']} x {vision['image_size']} {vision['channels']}"
    return {"images": f"{size}, {vision['tokens_per_image']} tokens each"}


def _print_meshes(console: Console, meshes: list[dict[str, Any]]) -> None:
    rows = [
        (
            mesh["name"],
            " ".join(f"{name}={size}" for name, size in mesh["axes"].items()),
            str(mesh["devices"]),
            format_bytes(mesh["weight_bytes_per_device"]),
        )
        for mesh in meshes
    ]
    columns = [*texts("mesh", "axes"), *numbers("devices", "weights/device")]
    print_table(console, "Meshes", columns, rows)
    for mesh in meshes:
        for sentence in mesh["fallbacks"]:
            console.print(f"  {mesh['name']}: {sentence}")


def _print_caches(console: Console, caches: list[dict[str, Any]]) -> None:
    rows = [
        (
            str(cache["cache"]),
            str(cache["layers"]),
            str(cache["ring_layers"]),
            " ".join(map(str, cache["ring_slots"])),
            format_bytes(cache["bytes_per_row"]),
            format_bytes(cache["uniform_bytes_per_row"]),
            f"{cache['bytes_per_row'] / max(cache['uniform_bytes_per_row'], 1):.3f}",
        )
        for cache in caches
    ]
    columns = numbers("positions", "layers", "rings", "slots", "a row", "uniform", "share")
    print_table(console, "KV cache", columns, rows)


def _print_programs(console: Console, programs: list[dict[str, Any]]) -> None:
    rows = [
        (
            program["mesh"],
            program["platform"],
            program["program"],
            str(program["batch"]),
            str(program["tokens"]),
            str(program["cache"]),
            format_bytes(program["stablehlo_bytes"]),
            format_bytes(program["cache_bytes_per_device"]),
            str(program["donated"]),
        )
        for program in programs
    ]
    columns = [
        *texts("mesh", "platform", "program"),
        *numbers("batch", "tokens", "cache", "StableHLO", "cache/device", "donated"),
    ]
    print_table(console, "Programs", columns, rows)


def format_bytes(count: int) -> str:
    """`count` in the largest binary unit that keeps it at least 1, for example `1.5 MiB`."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
