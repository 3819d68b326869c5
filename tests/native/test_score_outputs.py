"""gemma3-host --score with labels, and with hidden states and attentions in a file."""

from __future__ import annotations

import fcntl
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.convention import SCORE_OUTPUTS
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.export import pipeline

from ..goldens.loader import output_cases
from ..goldens.tiny import write_checkpoint
from ..parity.bundles import make_bundle
from ..runtime.conftest import Command
from .conftest import Ended, Host
from .library import environment

CASE = output_cases()["default"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of one program: score with everything it can give, in chunks of 8."""
    folder = tmp_path_factory.mktemp("outputs")
    checkpoint = write_checkpoint(CASE.name, folder / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_buckets", lambda *_: [Bucket(ProgramName.SCORE, 2, 8, 16)])
        return make_bundle(checkpoint, folder / "bundle", "1x1", "2x4", cache=(16,), prefill=(8,),
                           outputs=SCORE_OUTPUTS)  # fmt: skip


def ids(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_labels_and_outputs_are_those_of_gemma3_run_and_of_transformers(
    bundle: Path, tmp_path: Path, gemma3_run: Command, gemma3_host: Host, mesh: str
):
    short = CASE.tokens[:3]
    left = [tmp_path / f".{name}.npz.partial-4194305" for name in ("run", "host")]
    for path in left:  # by processes that were killed
        path.write_bytes(b"half")
    ask = [
        bundle, "--score", "--json", "--mesh", mesh,
        "--tokens", ids(CASE.tokens), "--labels", ids(CASE.labels),
        "--tokens", ids(short), "--labels", ids((-100, *short[1:])), "--outputs-to",
    ]  # fmt: skip
    ended = Ended(*gemma3_run(*ask, tmp_path / "run.npz"))
    for got, want in zip(
        gemma3_host(*ask, tmp_path / "host.npz").values, ended.values, strict=True
    ):
        assert got["loss"] == pytest.approx(want["loss"], abs=1e-4)
        assert [v is None for v in got["logprobs"]] == [v is None for v in want["logprobs"]]
        for one, other in zip(got["logprobs"], want["logprobs"], strict=True):
            assert one is None or one == pytest.approx(other, abs=1e-4)
    with np.load(tmp_path / "run.npz") as run, np.load(tmp_path / "host.npz") as host:
        assert list(host) == list(run)
        for name in run:
            assert (host[name].dtype, host[name].shape) == (run[name].dtype, run[name].shape)
            np.testing.assert_allclose(host[name], run[name], atol=1e-4, equal_nan=True)
        np.testing.assert_allclose(host["hidden_states_1"], CASE.hidden_states, atol=1e-4)
        np.testing.assert_allclose(host["attentions_1"], CASE.attentions, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host.npz", "run.npz"]


TEXT = ["--tokens", "2,5,6"]


def test_a_half_written_file_is_gone_after_a_signal_and_stays_while_it_has_a_writer(
    bundle: Path, tmp_path: Path, native: Path
):
    """The host is held up where it has begun to write: another has locked its file."""
    command = [
        native / "host" / "gemma3-host",
        bundle,
        "--score",
        *TEXT,
        "--outputs-to",
        tmp_path / "a.npz",
    ]
    host = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, env=environment())
    half = tmp_path / f".a.npz.partial-{host.pid}"
    other = tmp_path / ".a.npz.partial-4194305"
    with half.open("w") as locked, other.open("w") as written:
        fcntl.flock(locked, fcntl.LOCK_EX)
        fcntl.flock(written, fcntl.LOCK_EX)
        while f"-> FLOCK  ADVISORY  WRITE {host.pid} " not in Path("/proc/locks").read_text():
            assert host.poll() is None
            time.sleep(0.02)
        host.terminate()
        assert host.wait(timeout=20) == 143
        assert list(tmp_path.iterdir()) == [other]


def test_one_text_has_plain_names_and_a_table_of_its_labels(
    bundle: Path, tmp_path: Path, gemma3_host: Host
):
    path = tmp_path / "one.npz"
    ended = gemma3_host(
        bundle, "--score", *TEXT, "--labels", "-100,-100,6", "--outputs-to", path
    )  # fmt: skip
    assert (ended.status, ended.err) == (0, "")
    with np.load(path) as arrays:
        assert list(arrays) == ["tokens", "logprobs", *SCORE_OUTPUTS]
        assert np.isnan(arrays["logprobs"]).tolist() == [True, False]
    first, second = ended.out.splitlines()
    assert first.split()[1] == "6"
    assert second.endswith("1 tokens")


@pytest.mark.parametrize(
    "arguments",
    [
        [*TEXT, "--labels", "2,5,6"],
        [*TEXT, "--outputs-to", "x.npz"],
        [*TEXT, "--score", "--outputs-to", "x.txt"],
        [*TEXT, "--score", "--outputs-to", "no/x.npz"],
        [*TEXT, "--score", "--labels", "2,x"],
        [*TEXT, "--score", "--labels", "2,5"],
        [*TEXT, "--score", *["--labels", "2,5,6"] * 2],
        [*TEXT, "--score", "--labels", "2,5,-7"],
        [*TEXT, "--score", "--labels", "2,5,256"],
        [*TEXT, "--score", "--labels", "2,-100,-100"],
    ],
    ids=" ".join,
)
def test_refuses_in_the_words_of_gemma3_run(
    bundle: Path, gemma3_host: Host, gemma3_run: Command, arguments: list[str]
):
    expected = Ended(*gemma3_run(bundle, *arguments))
    assert expected.status == 2
    assert gemma3_host(bundle, *arguments) == expected


def test_a_bundle_without_the_outputs_says_how_to_get_them(
    toy: Path, tmp_path: Path, gemma3_host: Host
):
    ended = gemma3_host(toy, "--score", *TEXT, "--outputs-to", tmp_path / "x.npz")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "re-export with --outputs hidden_states,attentions" in ended.err
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_one_line(
    bundle: Path, tmp_path: Path, gemma3_host: Host, gemma3_run: Command
):
    (tmp_path / "there.npz").mkdir()
    ask = [bundle, "--score", *TEXT, "--json", "--outputs-to", tmp_path / "there.npz"]
    assert gemma3_host(*ask) == Ended(*gemma3_run(*ask))
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]
    assert json.loads(gemma3_host(*ask[:-2]).out)["loss"] > 0


def test_the_server_is_gemma3_runs_business(toy: Path, gemma3_host: Host):
    ended = gemma3_host(toy, *TEXT, "--server", "localhost:8500")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == (
        "error: --server: gemma3-host runs programs itself and asks no server; use gemma3-run "
        "BUNDLE --server HOST:PORT\n"
    )
