"""A little of what `make soak` does at length: the machinery works, and nothing breaks at once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gemma3_export.runtime.loading.model import LoadedModel
from hypothesis import given, settings
from hypothesis import strategies as st

from ..goldens.tiny import write_checkpoint
from ..runtime.toy_bundle import Toy, make_toy_bundle
from . import endurance
from .mutate import mutate
from .targets import TARGETS, survives

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_is_refused_in_words(name: str):
    target = TARGETS[name]()
    for seed in target.seeds:
        survives(target, seed)
    assert not survives(target, target.seeds[0]), "the sound input must be taken"

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(target.seeds), st.integers(0, 1 << 32))
    def damaged(seed: bytes, number: int) -> None:
        survives(target, mutate(seed, random.Random(number)))

    damaged()


def long_shard(seed: bytes) -> bytes:
    index = json.loads(seed)
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "m" * 5000
    return json.dumps(index).encode()


def broken_npy(seed: bytes) -> bytes:
    """A header that Python's own tokenizer refuses, not numpy's reader."""
    return seed.replace(b"'shape': (1, 3", b"'shape': ((1, 3")


def piece_that_is_no_text(seed: bytes) -> bytes:
    return seed.replace(b"<unk>", b"<un\xff>")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("index", long_shard), ("array", broken_npy), ("tokenizer_model", piece_that_is_no_text),
    ],
)  # fmt: skip
def test_what_fuzzing_found_stays_refused(name: str, damage: Callable[[bytes], bytes]):
    target = TARGETS[name]()
    data = damage(target.seeds[0])
    assert data != target.seeds[0]
    assert survives(target, data)


@pytest.mark.parametrize("value", [10**12, 2**63, 10**400])
@pytest.mark.parametrize(
    "field",
    [
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim",
        "intermediate_size", "sliding_window", "max_position_embeddings", "rope_theta",
        "sliding_window_pattern", "eos_token_id", "bos_token_id",
    ],
)  # fmt: skip
def test_a_config_that_claims_a_trillion_is_refused_by_arithmetic(field: str, value: int):
    target = TARGETS["config"]()
    config = json.loads(target.seeds[0])
    config.pop("layer_types", None)
    began = time.process_time()
    refused = survives(target, json.dumps({**config, field: value}).encode())
    # 10^12 is a frequency like any other.
    assert refused or (field == "rope_theta" and value < 10**30)
    assert time.process_time() - began < 1


FAULTS = """
import sys
from pathlib import Path
from tests.soak import faults
checkpoint, folder = Path(sys.argv[1]), Path(sys.argv[2])
for name in ("kill", "fill", "race"):
    (folder / name).mkdir()
print(faults.kill_exports(checkpoint, folder / "kill", 2, 5).trials)
if sys.argv[3] == "root":
    print(faults.fill_disks(checkpoint, folder / "fill", 1, 5).trials)
print(*faults.race(checkpoint, folder / "race"))
"""


def test_killed_exports_full_disks_and_races_leave_a_bundle_or_nothing(
    tmp_path: Path,
):
    """In a process of its own, which forks: this one has threads."""
    checkpoint = write_checkpoint("default", tmp_path / "default")
    user = "root" if os.geteuid() == 0 else "user"
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, str(checkpoint), str(tmp_path), user],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    expected = ["2", "1", "0 2"] if user == "root" else ["2", "0 2"]
    assert run.stdout.splitlines() == expected


def test_long_use_changes_no_tokens(tmp_path: Path):
    toy = Toy(batch=(1,), prefill=(8,), caches=(64, 2048), generate=32, tokenizer=False)
    model = LoadedModel.load(make_toy_bundle(tmp_path / "toy", toy))
    long = endurance.one_session(model, 2000)
    assert (long.count, long.same_tokens) == (2000, True)
    many = endurance.many_sessions(model, 100)
    assert (many.count, many.same_tokens) == (100, True)
    # Loosely, in a test that shares its process with others; `make soak` holds it to 2%.
    assert long.memory < 1.1
    assert many.memory < 1.1


def test_a_tower_of_a_million_layers_is_refused_by_arithmetic():
    target = TARGETS["config"]()
    config = json.loads(target.seeds[1])
    config["vision_config"]["num_hidden_layers"] = 10**6
    assert survives(target, json.dumps(config).encode())
