"""What programs call outside themselves: libgemma3 and the Python runtime find the same."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.artifacts.bytecode import calls_of

from .library import ROOT

NATIVE = ROOT / "runtime" / "native"
SOURCES = NATIVE / "src"
MUTATIONS, SEED = 3000, 5
SIZE = jax.ShapeDtypeStruct((4,), jnp.float32)
KERNEL = "gemma3_int4_linear"


def lower(*targets: str) -> bytes:
    """A program that calls handlers of these names, and nothing else outside itself."""

    def function(x: jax.Array) -> jax.Array:
        for target in targets:
            call = jax.ffi.ffi_call(target, SIZE, has_side_effect=True)
            x = call(x, before="norm", epsilon=np.float32(1e-6))
        return jnp.sort(jnp.cumsum(x))

    exported = jax.export.export(
        jax.jit(function), platforms=["cpu"],
        disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(name) for name in targets],
    )(SIZE)  # fmt: skip
    return exported.mlir_module_serialized


@pytest.fixture(scope="module")
def two() -> bytes:
    return lower(KERNEL, "xla_ffi_python_cpu_callback")


def found(code: bytes) -> str:
    """What Python finds, in a line as program_calls.cc writes it."""
    try:
        return "".join(f"{name}\t" for name in sorted(calls_of(code)))
    except ValueError as error:
        return f"error: {error}"


def test_targets_are_found(two: bytes) -> None:
    assert calls_of(lower()) == set()
    assert calls_of(lower(KERNEL)) == {KERNEL}
    assert calls_of(two) == {KERNEL, "xla_ffi_python_cpu_callback"}


@pytest.mark.parametrize(
    ("old", "new", "called"),
    [
        (KERNEL, "TopK0123456789abcd", "TopK0123456789abcd"),
        ("custom_call_v1", "custom_call_v9", "vhlo.custom_call_v9"),
        ("concatenate_v1", "outfeed_v1oooo", "vhlo.outfeed_v1oooo"),
        ("dot_general_v2", "infeed_v1nnnnn", "vhlo.infeed_v1nnnnn"),
        ("vhlo", "mhlo", "mhlo"),
        ("epsilon", "call_ta", None),
        ("a_name_of_16_byt", "call_target_name", "call_target_name"),
    ],
)
def test_other_ways_out_are_found(old: str, new: str, called: str | None) -> None:
    def a_name_of_16_byt(x: jax.Array) -> jax.Array:
        return x @ jnp.eye(4) + 1

    call = jax.ffi.ffi_call(KERNEL, SIZE, has_side_effect=True)
    function = jax.jit(a_name_of_16_byt)
    exported = jax.export.export(
        jax.jit(lambda x: jnp.concatenate([call(function(x), epsilon=np.float32(1)), x])),
        platforms=["cpu"], disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(KERNEL)],
    )(SIZE)  # fmt: skip
    code = exported.mlir_module_serialized
    assert old.encode() in code, "nothing to be changed"
    expected = {KERNEL} if called is None else {called}
    assert expected <= calls_of(code.replace(old.encode(), new.encode()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda code: b"module {}", "no MLIR bytecode"),
        (lambda code: b"", "no MLIR bytecode"),
        (lambda code: code[:-1], "damaged bytecode"),
        (lambda code: code[:4] + bytes([7 << 1 | 1]) + code[5:], "MLIR bytecode of version 7"),
        (lambda code: code + b"\x08\x01", "bytecode with a section twice"),
        (lambda code: code + b"\x89\x01\x10", "bytecode with an aligned section"),
    ],
)
def test_what_is_no_bytecode_of_ours_is_refused(change, said: str, two: bytes) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        calls_of(change(two))


def mutated(seeds: list[bytes]) -> list[bytes]:
    """Programs with bytes changed, cut out, doubled; half of them beyond what operations are."""
    chance = random.Random(SEED)
    codes = list(seeds)
    for _ in range(MUTATIONS):
        code = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.randrange(4, len(code))
            action = chance.randrange(4)
            if action == 0:
                code[at] = chance.choice((0, 1, 2, 255, chance.randrange(256)))
            elif action == 1:
                del code[at : at + chance.randrange(1, 9)]
            elif action == 2:
                code[at:at] = code[at : at + chance.randrange(1, 9)]
            else:
                code[at] ^= 1 << chance.randrange(8)
        codes.append(bytes(code))
    return codes


def test_both_runtimes_find_the_same(two: bytes, tmp_path: Path) -> None:
    program = tmp_path / "program_calls"
    source = Path(__file__).with_name("program_calls.cc")
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(
        ["c++", "-std=c++20", *sanitizers, f"-I{SOURCES}", source, SOURCES / "bytecode.cc", "-o",
         program], check=True,
    )  # fmt: skip
    codes = mutated([two, lower(KERNEL), lower()])
    lines = "".join(f"{code.hex()}\n" for code in codes)
    done = subprocess.run([program], input=lines.encode(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = [found(code).encode("latin-1") for code in codes]
    assert done.stdout.split(b"\n")[:-1] == expected
    refused = sum(line.startswith(b"error") for line in expected)
    assert MUTATIONS // 10 < refused < MUTATIONS * 9 // 10
