"""How one bundle differs from another, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..bundle import Bundle
from ..codec import encode, show
from ..manifest import PORTABLE, Manifest, MeshRecord, Program, Weight
from ..paths import MANIFEST, resolve_inside
from ..store import map_weight

_LISTED = 8


def diff_bundles(first: Bundle, second: Bundle) -> list[str]:
    """Sentences that say what `second` has otherwise than `first`; empty when nothing.

    Programs, weights and other files are compared by their recorded SHA-256; where two weight
    files differ, their tensors are compared to name those that changed.
    """
    old, new = first.manifest, second.manifest
    sentences = [
        *_diff_values("model", encode(old.model), encode(new.model)),
        *_diff_values("", encode(old.versions), encode(new.versions), " version"),
        *_diff_rest(old, new),
        *_diff_sets("platform", old.platforms, new.platforms),
        *_diff_meshes(old, new),
        *_diff_programs(first, second),
        *_diff_weights(first, second),
        *_diff_files(first, second),
    ]
    if not sentences and _manifest_bytes(first) != _manifest_bytes(second):
        return ["manifest.json is written otherwise and says the same"]
    return sentences


def _diff_values(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], suffix: str = ""
) -> Iterable[str]:
    for key in sorted(old.keys() | new.keys()):
        place = f"{name}.{key}" if name else f"{key}{suffix}"
        if key not in new:
            yield f"{place} removed, was {show(old[key])}"
        elif key not in old:
            yield f"{place} added: {show(new[key])}"
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            yield from _diff_values(place, old[key], new[key])
        elif old[key] != new[key]:
            first = _where(old[key], new[key])
            yield f"{place} changed from {show(old[key])} to {show(new[key])}{first}"


def _where(old: Any, new: Any) -> str:
    """The first place where two lists differ; their summaries may read the same."""
    if not (isinstance(old, list) and isinstance(new, list)):
        return ""
    for index, (a, b) in enumerate(zip(old, new, strict=False)):
        if a != b:
            return f", first at [{index}]: {show(a)} to {show(b)}"
    return ""


def _diff_rest(old: Manifest, new: Manifest) -> Iterable[str]:
    """Fields of the manifest that have no comparison of their own."""
    apart = {
        "model", "versions", "platforms", "meshes", "programs", "weights", "files", "caches",
    }  # fmt: skip
    before, after = encode(old), encode(new)
    rest = [name for name in before if name not in apart]
    yield from _diff_values("", {n: before[n] for n in rest}, {n: after[n] for n in rest})
    layouts = {str(layout.cache): encode(layout) for layout in old.caches}
    others = {str(layout.cache): encode(layout) for layout in new.caches}
    yield from _diff_sets("cache length", layouts, others)
    for cache in layouts.keys() & others.keys():
        yield from _diff_values(f"cache {cache}", layouts[cache], others[cache])


def _diff_sets(what: str, old: Iterable[str], new: Iterable[str]) -> Iterable[str]:
    before, after = list(old), list(new)
    for name in before:
        if name not in after:
            yield f"{what} {name} removed"
    for name in after:
        if name not in before:
            yield f"{what} {name} added"


def _diff_meshes(old: Manifest, new: Manifest) -> Iterable[str]:
    before: dict[str, MeshRecord] = {record.mesh.name: record for record in old.meshes}
    after: dict[str, MeshRecord] = {record.mesh.name: record for record in new.meshes}
    yield from _diff_sets("mesh", before, after)
    for name in before.keys() & after.keys():
        if before[name].mesh != after[name].mesh:
            axes = [
                " ".join(f"{axis.name}={axis.size}" for axis in found[name].mesh.axes)
                for found in (before, after)
            ]
            yield f"mesh {name} changed its axes from {axes[0]} to {axes[1]}"
        specs = before[name].weight_specs, after[name].weight_specs
        moved = [w for w in specs[0] if w in specs[1] and specs[0][w] != specs[1][w]]
        if moved:
            yield f"mesh {name} places {_several(moved, 'weight')} otherwise"


def _diff_programs(first: Bundle, second: Bundle) -> Iterable[str]:
    before, after = _programs(first), _programs(second)
    yield from _diff_sets("program", before, after)
    for name in before:
        if name not in after:
            continue
        old, new = before[name], after[name]
        records = encode(old), encode(new)
        changed = [field for field in records[0] if records[0][field] != records[1][field]]
        if changed:
            yield f"program {name} changed its {', '.join(changed)}"
        for field in ("stablehlo", "jaxexport"):
            digests = [_digest(b, getattr(p, field)) for b, p in ((first, old), (second, new))]
            if digests[0] != digests[1]:
                kind = {"stablehlo": "StableHLO", "jaxexport": "jax.export file"}[field]
                yield f"program {name}: {kind} changed"


def _programs(bundle: Bundle) -> dict[str, Program]:
    found = {}
    for program in bundle.manifest.programs:
        bucket = program.bucket
        name = (
            f"{bucket.program} batch {bucket.batch} tokens {bucket.tokens} cache {bucket.cache} "
            f"for {program.mesh} on {program.platform}{_variant(program)}"
        )
        found[name] = program
    return found


def _variant(program: Program) -> str:
    return "" if program.variant == PORTABLE else f" ({program.variant})"


def _diff_weights(first: Bundle, second: Bundle) -> Iterable[str]:
    before = {weight.name: weight for weight in first.manifest.weights}
    after = {weight.name: weight for weight in second.manifest.weights}
    for what, old, new in (("removed", before, after), ("added", after, before)):
        gone = [name for name in old if name not in new]
        if gone:
            yield f"{_several(gone, 'weight')} {what}"
    common = [name for name in before if name in after]
    for name in common:
        old, new = before[name], after[name]
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            yield f"weight {name} changed from {_form(old)} to {_form(new)}"
    if first.manifest.abstract or second.manifest.abstract or _same_stores(first, second):
        return
    changed = [
        name for name in common if _contents_differ(first, second, before[name], after[name])
    ]
    if changed:
        yield f"contents of {_several(changed, 'weight')} changed"


def _same_stores(first: Bundle, second: Bundle) -> bool:
    stores = [{_digest(b, file) for file in b.weight_files} for b in (first, second)]
    return stores[0] == stores[1]


def _contents_differ(first: Bundle, second: Bundle, old: Weight, new: Weight) -> bool:
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        return False  # said already
    a, b = map_weight(first, old), map_weight(second, new)
    return (
        a.tobytes() != b.tobytes()
        if a.ndim == 0
        else any(x.tobytes() != y.tobytes() for x, y in zip(a, b, strict=True))
    )


def _diff_files(first: Bundle, second: Bundle) -> Iterable[str]:
    """Files that are neither programs nor weights."""
    before, after = _other_files(first), _other_files(second)
    yield from _diff_sets("file", before, after)
    for path in before:
        if path in after and before[path] != after[path]:
            yield f"file {path} changed"


def _other_files(bundle: Bundle) -> dict[str, str]:
    known = set(bundle.weight_files)
    for program in bundle.manifest.programs:
        known |= {program.stablehlo, program.jaxexport}
    return {r.path: r.sha256 for r in bundle.manifest.files if r.path not in known}


def _digest(bundle: Bundle, path: str) -> str:
    return next(record.sha256 for record in bundle.manifest.files if record.path == path)


def _form(weight: Weight) -> str:
    return f"{weight.dtype} {list(weight.shape)}"


def _several(names: list[str], what: str) -> str:
    listed = ", ".join(names[:_LISTED])
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({listed}{more})"


def _manifest_bytes(bundle: Bundle) -> bytes:
    return resolve_inside(bundle.root, MANIFEST).read_bytes()
