"""A bundle as one page of HTML: tables and pictures, no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ..bundle import Bundle
from ..goldens import Goldens, read_goldens
from ..layout import CacheLayout, LayerKind
from ..manifest import PORTABLE, MeshRecord, Program, Weight
from ..paths import MANIFEST, resolve_inside
from ..sharding import device_bytes
from ..signing import SIGNATURE
from .guarantee import guaranteed_until
from .report_svg import Bar, bar_chart, line_chart, placement
from .summary import format_bytes, summarize

_MOST_BARS = 48
_POINTS = 64
_STYLE = """
body { font: 15px/1.45 sans-serif; color: #222; max-width: 960px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.7em; margin-bottom: 0 } h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: .8em 0 }
td, th { padding: .25em .9em .25em 0; text-align: left; vertical-align: top }
th { border-bottom: 1px solid #999; font-weight: 600 } td.n, th.n { text-align: right }
code { font-size: .92em; overflow-wrap: anywhere } svg { max-width: 100%; height: auto }
p.s { color: #555 } summary { cursor: pointer }
@media print { body { margin: 0 } h2 { break-after: avoid } tr, svg { break-inside: avoid } }
"""


def report_page(
    bundle: Bundle, export: dict[str, Any] | None, benchmarks: Sequence[dict[str, Any]]
) -> str:
    """The page. `export` is what `gemma3-export --json` printed when it made the bundle, or None;
    `benchmarks` are what `gemma3-bench --json` printed.

    Raises ArtifactError for goldens that are not as recorded.
    """
    manifest = bundle.manifest
    title = f"{manifest.model.name}: bundle report"
    body = [
        f"<h1>{escape(manifest.model.name)}</h1>",
        f'<p class="s">{escape(manifest.model.architecture)}, {manifest.model.parameters:,} '
        f"parameters, {escape(manifest.model.dtype)}</p>",
        *_contents(bundle),
        *_memory(bundle),
        *_cache(bundle),
        *(part for record in manifest.meshes for part in _placements(bundle, record)),
        *_programs(bundle, export),
        *_benchmarks(benchmarks),
        *_goldens(read_goldens(bundle)),
        *_provenance(bundle),
    ]
    # Whatever names the bundle brings, a browser runs and fetches nothing.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _contents(bundle: Bundle) -> Iterable[str]:
    manifest, summary = bundle.manifest, summarize(bundle)
    model = summary["model"]
    rows = [
        ("platforms", ", ".join(manifest.platforms)),
        ("meshes", ", ".join(record.mesh.name for record in manifest.meshes)),
        ("programs", str(len(manifest.programs))),
        ("vocabulary", f"{model['vocab_size']:,} tokens"),
        ("window", f"{model['sliding_window']} of {model['max_position_embeddings']:,} positions"),
        ("weights", _weights_fact(bundle)),
        ("tokenizer", "none" if manifest.tokenizer is None else manifest.tokenizer.path),
        ("images", "none" if manifest.vision is None else f"{manifest.vision.image_size} pixels"),
        ("quantization", "none" if manifest.quantization is None else manifest.quantization.rule),
        ("TF SavedModel", "none" if manifest.saved_model is None else manifest.saved_model.path),
    ]
    yield "<h2>Contents</h2>"
    yield _table((), rows)
    kinds: dict[str, int] = {}
    for record in manifest.files:
        kind = record.path.split("/")[0]
        kinds[kind] = kinds.get(kind, 0) + record.bytes
    yield bar_chart(
        [Bar(kind, (size,)) for kind, size in sorted(kinds.items(), key=lambda item: -item[1])],
        ["bytes on disk"], "Files of the bundle by folder",
    )  # fmt: skip


def _weights_fact(bundle: Bundle) -> str:
    manifest = bundle.manifest
    total = format_bytes(sum(weight.nbytes for weight in manifest.weights))
    stored = "not stored (abstract bundle)" if manifest.abstract else "one copy"
    return f"{len(manifest.weights)} tensors, {total}, {stored}"


def _memory(bundle: Bundle) -> Iterable[str]:
    yield "<h2>Memory per device</h2>"
    yield (
        "<p>What one device holds while a program runs, without what the compiler sets aside for "
        "intermediate values. The cache is updated in place and counted once.</p>"
    )
    for record in bundle.manifest.meshes:
        for platform in bundle.manifest.platforms:
            programs = [
                p for p in bundle.manifest.programs
                if (p.mesh, p.platform) == (record.mesh.name, platform)
            ]  # fmt: skip
            if not programs:
                continue
            bars = [_memory_bar(bundle, record, p) for p in programs[:_MOST_BARS]]
            more = len(programs) - len(bars)
            count = record.mesh.devices
            devices = f"{count} device{'s' if count > 1 else ''}"
            yield f"<h3>{escape(record.mesh.name)} on {escape(platform)}, {devices}</h3>"
            yield bar_chart(
                bars, ["weights", "KV cache", "inputs and outputs"],
                f"Memory of one device of {record.mesh.name} for each program",
            )  # fmt: skip
            if more > 0:
                yield f'<p class="s">and {more} more programs</p>'


def _memory_bar(bundle: Bundle, record: MeshRecord, program: Program) -> Bar:
    mesh = record.mesh
    weights = sum(
        device_bytes(w.shape, w.dtype, record.weight_specs[w.name], mesh)
        for w in bundle.weight_set(program.weights)
    )
    cache, rest = (
        sum(device_bytes(t.shape, t.dtype, t.spec, mesh) for t in tensors)
        for tensors in (program.cache, (*program.inputs, *program.outputs))
    )
    return Bar(_name(program), (weights, cache, rest))


def _cache(bundle: Bundle) -> Iterable[str]:
    manifest = bundle.manifest
    yield "<h2>KV cache against context</h2>"
    if not manifest.caches:
        yield "<p>The programs of this bundle keep no cache.</p>"
        return
    layout = max(manifest.caches, key=lambda found: found.cache)
    far = max(layout.cache, min(manifest.model.max_position_embeddings, 1 << 17))
    xs = sorted({far * step // _POINTS for step in range(_POINTS + 1)})
    yield line_chart(
        xs,
        [
            ("rings", [_ring_bytes(layout, x) for x in xs]),
            ("uniform", [_uniform_bytes(layout, x) for x in xs]),
        ],
        "Bytes of the cache of one row: rings for local layers against all layers alike",
        "positions a row can hold",
    )
    rows = [
        (
            f"{found.cache:,}", format_bytes(found.bytes_per_row),
            format_bytes(found.uniform_bytes_per_row),
            f"{found.bytes_per_row / max(found.uniform_bytes_per_row, 1):.3f}",
        )
        for found in manifest.caches
    ]  # fmt: skip
    yield _table(("cache lengths of the bundle", "a row", "uniform", "share"), rows, numbers=True)


def _ring_bytes(layout: CacheLayout, positions: int) -> int:
    return sum(
        layer.bytes_per_slot
        * (min(layer.slots, positions) if layer.kind is LayerKind.RING else positions)
        for layer in layout.layers
    )


def _uniform_bytes(layout: CacheLayout, positions: int) -> int:
    return sum(layer.bytes_per_slot * positions for layer in layout.layers)


def _placements(bundle: Bundle, record: MeshRecord) -> Iterable[str]:
    mesh = record.mesh
    axes = ", ".join(f"{axis.name}={axis.size}" for axis in mesh.axes)
    yield f"<h2>Weights on the devices of {escape(mesh.name)}</h2>"
    yield (
        f"<p>Axes {escape(axes)}; device numbers stand in the part of the tensor they hold. "
        "<code>*</code> is every layer.</p>"
    )
    rows = []
    for name, weights in _grouped(bundle.manifest.weights, record).items():
        first = weights[0]
        spec = record.weight_specs[first.name]
        part = device_bytes(first.shape, first.dtype, spec, mesh)
        picture = placement(first.shape, spec, mesh)
        shape = " x ".join(map(str, first.shape))
        rows.append((f"<code>{escape(name)}</code>", shape, picture, format_bytes(part)))
    yield _raw_table(("weight", "shape", "devices of each part", "one part"), rows)
    for sentence in record.fallbacks:
        yield f'<p class="s">{escape(sentence)}</p>'


def _grouped(weights: Iterable[Weight], record: MeshRecord) -> dict[str, list[Weight]]:
    """Weights that differ only in their layer, and lie alike, under one name."""
    found: dict[tuple[Any, ...], list[Weight]] = {}
    for weight in weights:
        name = re.sub(r"\.\d+\.", ".*.", weight.name)
        key = (name, weight.shape, record.weight_specs[weight.name])
        found.setdefault(key, []).append(weight)
    named: dict[str, list[Weight]] = {}
    for (name, *_), members in found.items():
        named[name if name not in named else members[0].name] = members
    return named


def _programs(bundle: Bundle, export: dict[str, Any] | None) -> Iterable[str]:
    sizes = {record.path: record.bytes for record in bundle.manifest.files}
    seconds = _lowering_seconds(export)
    rows = []
    for program in bundle.manifest.programs:
        took = seconds.get(_key(program))
        rows.append(
            (
                program.mesh, program.platform, _name(program), program.variant,
                format_bytes(sizes[program.stablehlo]), format_bytes(sizes[program.jaxexport]),
                "not recorded" if took is None else f"{took:.2f} s",
            )
        )  # fmt: skip
    yield "<h2>Programs</h2>"
    heads = ("mesh", "platform", "program", "variant", "StableHLO", "jax.export", "lowering")
    yield _table(heads, rows)
    if export is None:
        yield (
            '<p class="s">Lowering seconds are not in a bundle, whose bytes do not depend on the '
            "clock: pass the output of <code>gemma3-export --json</code> with --export.</p>"
        )
    else:
        yield f"<p>The whole export took {float(export.get('seconds', 0)):.1f} s.</p>"


def _lowering_seconds(export: dict[str, Any] | None) -> dict[tuple[Any, ...], float]:
    fields = ("mesh", "platform", "program", "batch", "tokens", "cache")
    return {
        tuple(entry.get(field) for field in fields): float(entry["seconds"])
        for entry in (export or {}).get("programs", ())
    }


def _key(program: Program) -> tuple[Any, ...]:
    bucket = program.bucket
    place = program.mesh, program.platform
    return (*place, str(bucket.program), bucket.batch, bucket.tokens, bucket.cache)


def _benchmarks(results: Sequence[dict[str, Any]]) -> Iterable[str]:
    yield "<h2>Benchmarks</h2>"
    if not results:
        yield (
            '<p class="s">None given: pass the output of <code>gemma3-bench --json</code> with '
            "--bench.</p>"
        )
        return
    rows = [
        (
            f"{result.get('mesh')} on {result.get('platform')}",
            f"{result.get('batch')} x {result.get('prefill')} + {result.get('decode')}",
            *(f"{float(result[name]):,.1f} tok/s" for name in ("prefill_tok_s", "decode_tok_s")),
            *(f"{float(result[name]):.2f} s" for name in ("first_token_s", "load_s")),
            format_bytes(int(result["peak_rss_bytes"])),
        )
        for result in results
    ]
    heads = ("mesh", "batch x prompt + new", "prefill", "decode", "first token", "load", "peak")
    yield _table(heads, rows)


def _goldens(goldens: Goldens | None) -> Iterable[str]:
    yield "<h2>Goldens</h2>"
    if goldens is None:
        yield '<p class="s">None recorded: export with <code>--goldens run</code>.</p>'
        return
    rows = [
        (
            str(golden.kind), golden.text or " ".join(map(str, golden.tokens[:24])),
            " ".join(map(str, golden.new_tokens or golden.values[:8])),
        )
        for golden in goldens.cases
    ]  # fmt: skip
    yield _table(("kind", "input", "must give"), rows)


def _provenance(bundle: Bundle) -> Iterable[str]:
    manifest = bundle.manifest
    versions = manifest.versions
    until = guaranteed_until(versions.jax)
    digest = hashlib.sha256(resolve_inside(bundle.root, MANIFEST).read_bytes()).hexdigest()
    signed = (bundle.root / SIGNATURE).is_file()
    rows = [
        ("gemma3-export", versions.gemma3_export),
        ("jax, jaxlib", f"{versions.jax}, {versions.jaxlib}"),
        ("StableHLO", versions.stablehlo),
        ("calling convention", str(versions.calling_convention)),
        ("jax must read it", "release day not known" if until is None else f"if made by {until}"),
        ("format version", str(manifest.format_version)),
        ("signature", "there; gemma3-bundle verify --key checks it" if signed else "none"),
        ("SHA-256 of manifest.json", digest),
    ]
    yield "<h2>Provenance</h2>"
    yield _table((), rows)
    files = [(r.path, format_bytes(r.bytes), r.sha256) for r in manifest.files]
    yield f"<details><summary>SHA-256 of {len(files)} files</summary>"
    yield _table(("file", "size", "SHA-256"), files)
    yield "</details>"


def _name(program: Program) -> str:
    bucket = program.bucket
    kernels = "" if program.variant == PORTABLE else f" ({program.variant})"
    cache = f" c{bucket.cache}" if bucket.cache else ""
    return f"{bucket.program} b{bucket.batch} t{bucket.tokens}{cache}{kernels}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """Cells are text; escaped here."""
    safe = [[escape(cell) for cell in row] for row in rows]
    return _raw_table([escape(head) for head in heads], safe, numbers)


def _raw_table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """Cells are HTML already."""
    kind = ' class="n"' if numbers else ""
    parts = ["<table>"]
    if heads:
        parts.append("<tr>" + "".join(f"<th{kind}>{head}</th>" for head in heads) + "</tr>")
    for row in rows:
        parts.append("<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell in row) + "</tr>")
    return "\n".join(itertools.chain(parts, ["</table>"]))
