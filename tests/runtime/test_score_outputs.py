"""`gemma3-run --score` with labels, and with hidden states and attentions in a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.convention import SCORE_OUTPUTS
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.export import pipeline

from ..goldens.loader import output_cases
from ..goldens.tiny import write_checkpoint
from ..parity.bundles import make_bundle
from .conftest import Command, run_python

CASE = output_cases()["default"]
RUN = "from gemma3_export.runtime.commands.run import console; console()"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of one program: score with everything it can give."""
    folder = tmp_path_factory.mktemp("outputs")
    checkpoint = write_checkpoint(CASE.name, folder / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_buckets", lambda *_: [Bucket(ProgramName.SCORE, 2, 8, 16)])
        return make_bundle(checkpoint, folder / "bundle", cache=(16,), outputs=SCORE_OUTPUTS,
                           prefill=(8,))  # fmt: skip


def ids(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


def test_labels_and_outputs_of_two_texts(bundle: Path, tmp_path: Path, gemma3_run: Command):
    short = CASE.tokens[:3]
    status, out, err = gemma3_run(
        bundle, "--score", "--json", "--outputs-to", tmp_path / "all.npz",
        "--tokens", ids(CASE.tokens), "--labels", ids(CASE.labels),
        "--tokens", ids(short), "--labels", ids((-100, *short[1:])),
    )  # fmt: skip
    assert status == 0, err
    whole, part = map(json.loads, out.splitlines())
    assert whole["loss"] == pytest.approx(CASE.loss, abs=1e-4)
    kept = [lp for lp in whole["logprobs"] if lp is not None]
    assert len(kept) == sum(label != -100 for label in CASE.labels[1:])
    assert whole["loss"] == pytest.approx(-sum(kept) / len(kept))
    assert len(part["logprobs"]) == 2
    arrays = np.load(tmp_path / "all.npz")
    names = ("tokens", "logprobs", *SCORE_OUTPUTS)
    assert set(arrays) == {f"{name}_{number}" for name in names for number in (1, 2)}
    np.testing.assert_allclose(arrays["hidden_states_1"], CASE.hidden_states, atol=1e-4)
    np.testing.assert_allclose(arrays["attentions_1"], CASE.attentions, atol=1e-4)
    np.testing.assert_allclose(arrays["attentions_2"], CASE.attentions[:, :, :3, :3], atol=1e-4)
    assert arrays["tokens_2"].tolist() == list(short)
    assert [path.name for path in tmp_path.iterdir()] == ["all.npz"]


def test_one_text_has_plain_names_and_a_table_of_its_labels(
    bundle: Path, tmp_path: Path, gemma3_run: Command
):
    path = tmp_path / "one.npz"
    _, out, _ = gemma3_run(
        bundle, "--score", "--tokens", "2,5,6", "--labels", "-100,-100,6", "--outputs-to", path
    )
    assert set(np.load(path)) == {"tokens", "logprobs", *SCORE_OUTPUTS}
    lines = out.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[1] == "6"
    assert lines[1].endswith("1 tokens")


TEXT = ["--tokens", "2,5,6"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TEXT, "--labels", "2,5,6"], "--labels needs --score"),
        ([*TEXT, "--outputs-to", "x.npz"], "--outputs-to needs --score"),
        ([*TEXT, "--score", "--outputs-to", "x.txt"], "a file name that ends in .npz"),
        ([*TEXT, "--score", "--outputs-to", "no/x.npz"], "--outputs-to: no is not a folder"),
        ([*TEXT, "--score", "--labels", "2,x"], "--labels: expected ids separated by commas"),
        ([*TEXT, "--score", "--labels", "2,5"], "one for each of its 3 tokens, got 2"),
        ([*TEXT, "--score", *["--labels", "2,5,6"] * 2], "some for each of the 1 prompts, got 2"),
        ([*TEXT, "--score", "--labels", "2,5,-7"], "or -100 for none, got -7"),
        ([*TEXT, "--score", "--labels", "2,5,256"], "expected ids from 0 to 255"),
        ([*TEXT, "--score", "--labels", "2,-100,-100"], "there is nothing to predict"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    bundle: Path, gemma3_run: Command, arguments: list[str], message: str
):
    status, out, err = gemma3_run(bundle, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_bundle_without_the_outputs_says_how_to_get_them(
    toy: Path, tmp_path: Path, gemma3_run: Command
):
    path = tmp_path / "x.npz"
    status, _, err = gemma3_run(toy, "--score", *TEXT, "--outputs-to", path)
    assert (status, err.count("\n")) == (2, 1)
    assert "re-export with --outputs hidden_states,attentions" in err
    assert not path.exists()


def test_a_file_that_cannot_be_written_is_one_line(bundle: Path, tmp_path: Path):
    (tmp_path / "there.npz").mkdir()
    starts = [
        run_python(RUN, bundle, "--score", *TEXT, "--json", "--outputs-to", tmp_path / "there.npz")
        for _ in range(2)  # the second loads what the first compiled, of which XLA has remarks
    ]
    for start in starts:
        assert (start.returncode, start.stderr.count("\n")) == (2, 1), start.stderr
        assert "cannot write" in start.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]
