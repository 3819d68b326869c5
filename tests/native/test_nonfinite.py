"""Results that are not numbers: the same JSON from gemma3-run and gemma3-host, and it is JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ..goldens.tiny import TINY, weights, write_files
from ..parity.bundles import make_bundle
from ..runtime.conftest import Command
from .conftest import Host


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with one weight that is NaN."""
    folder = tmp_path_factory.mktemp("nonfinite")
    tensors = dict(weights("default"))
    tensors["model.norm.weight"][3] = np.nan
    checkpoint = write_files(TINY["default"], tensors.items(), folder / "checkpoint")
    return make_bundle(checkpoint, folder / "bundle", prefill=(8,), allow_nonfinite=True)


def strict(line: str) -> dict:
    def refuse(name: str) -> float:
        raise AssertionError(name)

    return json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize(
    ("flags", "nonfinite"),
    [
        (["--max-new-tokens", "3", "--ignore-eos", "--logprobs", "2"], 6),
        (["--score"], 4),
        (["--score", "--labels", "2,-100,7,5"], 3),
    ],
    ids=["logprobs", "score", "labels"],
)
def test_run_and_host_print_null_and_how_many(
    broken: Path, gemma3_run: Command, gemma3_host: Host, flags: list[str], nonfinite: int
):
    arguments = [broken, "--tokens", "2,17,18,9", *flags, "--json"]
    status, out, err = gemma3_run(*arguments)
    assert (status, err) == (0, "")
    run, host = strict(out), strict(gemma3_host(*arguments).out)
    for value in (run, host):
        value.pop("stats", None)
    assert run == host
    assert host["nonfinite"] == nonfinite
