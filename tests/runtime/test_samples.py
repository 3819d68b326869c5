"""Bundles of every past format version are read; those with real programs still give their tokens.

A sample that fails here was written by a released version: fix the reader, not the sample.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.codec import decode, parse_json
from gemma3_export.artifacts.goldens import Goldens, check_goldens, format_goldens, read_goldens
from gemma3_export.artifacts.inspect.summary import summarize
from gemma3_export.artifacts.manifest import FORMAT_VERSION, ProgramName
from gemma3_export.artifacts.store import map_weight
from gemma3_export.runtime.checks.goldens import TEXTS, record_goldens, run_goldens
from gemma3_export.runtime.loading.model import LoadedModel

from .toy_bundle import Toy, make_toy_bundle

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


def test_goldens_are_recorded_from_texts_where_there_is_a_tokenizer(model: LoadedModel):
    """And are what a bundle may hold, and come out right where they were made."""
    goldens = record_goldens(model)
    texts = {case.text for case in goldens.cases}
    assert texts - {""} <= set(TEXTS)  # empty: had to be cut to fit, and says something else
    assert TEXTS[0] in texts
    assert len(goldens.cases) > 2
    check_goldens(goldens, model.bundle.manifest, "recorded")
    assert decode(Goldens, parse_json(format_goldens(goldens), "recorded"), "recorded") == goldens
    assert [outcome.error for outcome in run_goldens(model, goldens)] == [""] * len(goldens.cases)


@pytest.mark.parametrize("program", [ProgramName.CLASSIFY, ProgramName.EMBED])
def test_goldens_of_classifiers_and_embedders_are_numbers(tmp_path: Path, program: ProgramName):
    toy = Toy(batch=(1,), prefill=(16,), programs=(program,))
    model = LoadedModel.load(make_toy_bundle(tmp_path / "toy", toy))
    goldens = record_goldens(model)
    assert {str(case.kind) for case in goldens.cases} == {str(program)}
    check_goldens(goldens, model.bundle.manifest, "recorded")
    assert [outcome.error for outcome in run_goldens(model, goldens)] == [""] * len(goldens.cases)
    first = goldens.cases[0]
    wrong = dataclasses.replace(first, values=(first.values[0] + 1, *first.values[1:]))
    (outcome,) = run_goldens(model, dataclasses.replace(goldens, cases=(wrong,)))
    assert outcome.error.startswith("number 1: expected ")
