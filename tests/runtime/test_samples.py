"""Bundles of every past format version are read; those with real programs still give their tokens.

A sample that fails here was written by a released version: mend the reader, not the sample.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.goldens import read_goldens
from gemma3_export.artifacts.manifest import FORMAT_VERSION
from gemma3_export.artifacts.store import map_weight
from gemma3_export.artifacts.summary import summarize
from gemma3_export.runtime.goldens import run_goldens
from gemma3_export.runtime.model import LoadedModel

DATA = Path(__file__).parents[1] / "artifacts" / "data"
VERSIONS = range(1, FORMAT_VERSION + 1)


def test_there_is_a_sample_of_every_version():
    found = {re.fullmatch(r"v(\d+)-sample", path.name) for path in DATA.iterdir()} - {None}
    assert {int(match[1]) for match in found if match} == set(VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_part_of_a_sample_is_read(version: int):
    bundle = Bundle.open(DATA / f"v{version}-sample")
    bundle.verify()
    assert bundle.manifest.format_version == FORMAT_VERSION
    assert summarize(bundle)["weights"]["count"] == len(bundle.manifest.weights)
    for weight in bundle.manifest.weights:
        assert map_weight(bundle, weight).nbytes == weight.nbytes


@pytest.mark.parametrize("version", [v for v in VERSIONS if v > 1])
def test_the_programs_of_a_sample_give_the_tokens_they_gave(version: int):
    """Programs of version 1 were placeholders; those since are what jax.export wrote then."""
    folder = DATA / f"v{version}-sample"
    goldens = read_goldens(Bundle.open(folder))
    assert goldens is not None
    outcomes = run_goldens(LoadedModel.load(folder), goldens)
    assert [outcome.error for outcome in outcomes] == [""] * len(goldens.cases)
    assert sum(len(golden.new_tokens) for golden in goldens.cases) > 16
