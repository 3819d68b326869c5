"""The file of `--tune` and `--tuned`: what was measured on a machine, and what was chosen.

Version 1 is JSON: a `TunedFile`, read strictly. A choice need not have been measured: `seconds`
may be empty where a person wrote it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp

from ..artifacts.atomic import whole_file
from ..artifacts.codec import REMEDY, decode, encode, format_json, parse_json, refuse
from ..artifacts.errors import ArtifactError
from ..model.lowering.forms import KERNEL_OF, Form, usable_forms
from ..model.lowering.table import AttentionCase, Blocks, Case, FormTable, ProductCase
from .options import DTYPES

TUNED_VERSION = 1
MAX_TUNED_BYTES = 1 << 26
_MAX_SIZE = 1 << 24
_REMEDY = "fix it, or write it again with gemma3-export --tune"
_BLOCKS = re.compile(r"blocks of ([1-9]\d{0,5})x([1-9]\d{0,5})")


@dataclass(frozen=True)
class Machine:
    """Where the times were taken; for people."""

    processor: str
    cores: int
    jax: str
    jaxlib: str
    devices: dict[str, str]
    """For each platform that was measured the kind of its device."""


@dataclass(frozen=True)
class ProductChoice:
    """The form of one product: a name of model/lowering/forms.py."""

    case: ProductCase
    form: str
    seconds: dict[str, float]
    """Median of one call of each form that was measured."""


@dataclass(frozen=True)
class AttentionChoice:
    """The form of one attention: `whole`, or `blocks of 256x512` (queries x keys)."""

    case: AttentionCase
    form: str
    seconds: dict[str, float]
    """Median of one call of each form that was measured."""


@dataclass(frozen=True)
class TunedFile:
    """The contents of the file."""

    tuned_version: int
    """1; a reader refuses another."""
    machine: Machine
    products: tuple[ProductChoice, ...]
    attention: tuple[AttentionChoice, ...]


def write_tuned(path: Path, tuned: TunedFile) -> FormTable:
    """Write the file, whole or not at all; returns what `read_tuned` will give."""
    data = format_json(encode(tuned)).encode()
    with whole_file(path) as file:
        file.write(data)
    return _table(tuned, data)


def read_tuned(path: Path) -> FormTable:
    """The table of a file.

    Raises:
        ArtifactError: no such file, another version, a form that is unknown or that its case
            cannot have; one line that names the place.
    """
    where = str(path)
    if not path.is_file():
        _refuse(where, "", "a file that gemma3-export --tune wrote", "nothing of that name")
    if path.stat().st_size > MAX_TUNED_BYTES:
        _refuse(where, "", f"at most {MAX_TUNED_BYTES} bytes", str(path.stat().st_size))
    data = path.read_bytes()
    try:
        value = parse_json(data, where)
        if isinstance(value, dict) and value.get("tuned_version") != TUNED_VERSION:
            got = str(value.get("tuned_version"))[:40]
            refuse(where, "tuned_version", str(TUNED_VERSION), got)
        tuned = decode(TunedFile, value, where)
    except ArtifactError as error:
        raise ArtifactError(str(error).removesuffix(REMEDY) + _REMEDY) from error
    _check(tuned, where)
    return _table(tuned, data)


def usable(case: ProductCase) -> dict[str, Form]:
    """By name the forms that a product may be written in."""
    forms = usable_forms(case.scheme, jnp.dtype(case.dtype), case.rows, case.kernels)
    return {form.__name__: form for form in forms}


def parse_blocks(name: str) -> Blocks | None:
    """The inverse of `blocks_name`. Raises ValueError."""
    if name == "whole":
        return None
    match = _BLOCKS.fullmatch(name)
    if match is None:
        raise ValueError(name)
    return Blocks(int(match[1]), int(match[2]))


def _table(tuned: TunedFile, data: bytes) -> FormTable:
    digest = hashlib.sha256(data).hexdigest()
    return FormTable(
        tuple((c.case, usable(c.case)[c.form]) for c in tuned.products),
        tuple((c.case, parse_blocks(c.form)) for c in tuned.attention),
        f"tuned, sha256 {digest}",
    )


def _refuse(where: str, path: str, expected: str, got: str) -> None:
    refuse(where, path, expected, got, _REMEDY)


def _check(tuned: TunedFile, where: str) -> None:
    for index, product in enumerate(tuned.products):
        path, case = f"products[{index}]", product.case
        _check_sizes(where, path, case, ("rows", "outputs", "inputs"))
        _check_dtype(where, f"{path}.case.dtype", case.dtype, DTYPES)
        if (group := case.scheme.group) and case.inputs % group:
            _refuse(where, f"{path}.case.inputs", f"a multiple of {group}", str(case.inputs))
        if case.kernels and case.scheme not in KERNEL_OF:
            _refuse(where, f"{path}.case.kernels", f"false for {case.scheme}", "true")
        forms = usable(case)
        _check_forms(where, path, product, f"one of {', '.join(forms)}", forms.__contains__)
    for index, attention in enumerate(tuned.attention):
        path, case = f"attention[{index}]", attention.case
        sizes = ("batch", "tokens", "heads", "kv_heads", "head_dim", "slots")
        _check_sizes(where, path, case, sizes)
        _check_dtype(where, f"{path}.case.dtype", case.dtype, DTYPES)
        _check_dtype(where, f"{path}.case.kept", case.kept, (case.dtype, "int8"))
        _check_forms(where, path, attention, "whole or blocks of QUERIESxKEYS", _is_blocks)
    for name, choices in (("products", tuned.products), ("attention", tuned.attention)):
        _check_once(where, name, [choice.case for choice in choices])


def _check_sizes(where: str, path: str, case: Case, names: Sequence[str]) -> None:
    for name in names:
        size = getattr(case, name)
        if not 1 <= size <= _MAX_SIZE:
            _refuse(where, f"{path}.case.{name}", f"1 to {_MAX_SIZE}", str(size))


def _check_dtype(where: str, path: str, dtype: str, known: Sequence[str]) -> None:
    if dtype not in known:
        _refuse(where, path, f"one of {', '.join(known)}", dtype[:60])


def _check_forms(
    where: str, path: str, choice: ProductChoice | AttentionChoice, expected: str,
    known: Callable[[str], bool],
) -> None:  # fmt: skip
    if not known(choice.form):
        _refuse(where, f"{path}.form", expected, choice.form[:60])
    for name, seconds in choice.seconds.items():
        if not known(name):
            _refuse(where, f"{path}.seconds", expected, name[:60])
        if seconds <= 0:
            _refuse(where, f"{path}.seconds.{name}", "more than 0", str(seconds))


def _is_blocks(name: str) -> bool:
    try:
        parse_blocks(name)
    except ValueError:
        return False
    return True


def _check_once(where: str, name: str, cases: Iterable[Case]) -> None:
    seen: set[Case] = set()
    for index, case in enumerate(cases):
        if case in seen:
            _refuse(where, f"{name}[{index}].case", "each case once", "one that was there before")
        seen.add(case)
