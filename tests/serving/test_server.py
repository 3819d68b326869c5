"""A served SavedModel: the official stubs, our own clients, slots shared by many, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.runtime.commands import run as cli
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import Request, generate
from gemma3_export.runtime.requests.sampling import SamplingParameters
from gemma3_export.runtime.requests.score import score
from gemma3_export.runtime.serving.client import connect, parse_address
from gemma3_export.runtime.serving.remote import RemoteModel, run_remote

from . import requests
from .conftest import SLOTS, Server
from .requests import BAD, PROMPTS

HERE = Path(__file__).parent
CLIENTS, CALLS = SLOTS, 200
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(bundle: Path) -> LoadedModel:
    return LoadedModel.load(bundle, "1x1")


@pytest.fixture(params=["grpc", "rest"])
def address(server: Server, request: pytest.FixtureRequest) -> str:
    return getattr(server, request.param)


@pytest.fixture
def remote(bundle: Path, address: str) -> RemoteModel:
    return RemoteModel(Bundle.open(bundle), connect(parse_address(address)))


@pytest.fixture
def gemma3_run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gemma3-run", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capfd.readouterr()

    return run


def _local(model: LoadedModel, prompt: list[int], new_tokens: int) -> list[int]:
    return generate(
        model, [prompt], SamplingParameters(), max_new_tokens=new_tokens, ignore_eos=True
    )[0].tokens


def test_the_official_stubs_get_the_tokens_of_the_stablehlo_runtime(server, model):
    done = subprocess.run(
        [sys.executable, HERE / "stub_client.py", server.grpc],
        input=json.dumps(requests.generate([PROMPTS[0]], 20)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["tokens"] == [_local(model, PROMPTS[0], 20)]


def test_gemma3_run_with_a_server_prints_what_it_prints_without(
    gemma3_run: Run, bundle: Path, address: str
):
    flags = (bundle, "--tokens", "5,6,7", "--tokens", "9,10,11,12,13", "--max-new-tokens", 9)
    flags = (*flags, "--temperature", 0.8, "--seed", 3, "--ignore-eos", "--json")
    status, out, err = gemma3_run(*flags, "--mesh", "1x1")
    assert (status, err) == (0, "")
    assert gemma3_run(*flags, "--server", address)[0] == 0
    expected = [json.loads(line) for line in out.splitlines()]
    status, out, err = gemma3_run(*flags, "--server", address)
    assert (status, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        assert all(name.startswith("client_") for name in one["stats"])
        assert {**one, "stats": 0} == {**other, "stats": 0}


def test_gemma3_run_scores_on_a_server(gemma3_run: Run, bundle: Path, address: str, model):
    tokens = ",".join(map(str, PROMPTS[1]))
    status, out, _ = gemma3_run(
        bundle, "--server", address, "--score", "--tokens", tokens, "--json"
    )
    expected = score(model, [PROMPTS[1]])[0]
    assert status == 0
    assert json.loads(out)["loss"] == pytest.approx(expected.loss, abs=1e-4)
    np.testing.assert_allclose(json.loads(out)["logprobs"], expected.logprobs, atol=1e-4)


@pytest.mark.parametrize("slots", [SLOTS, 0])
def test_streaming_gives_the_same_tokens_in_slots_and_by_sending_all_again(
    remote: RemoteModel, model, slots: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(RemoteModel, "slots", slots)
    seen: list[str] = []
    request = Request(
        [PROMPTS[0]], 21, SamplingParameters(temperature=0.7, seed=5), ignore_eos=True
    )
    (done,) = run_remote(remote, request, lambda _, text: seen.append(text))
    (expected,) = generate(
        model, request.prompts, request.sampling, max_new_tokens=21, ignore_eos=True
    )
    assert done.tokens == expected.tokens
    assert done.finish_reason == "length"


def test_eight_clients_in_slots_get_what_each_would_get_alone(bundle: Path, server: Server, model):
    remote = RemoteModel(Bundle.open(bundle), connect(parse_address(server.grpc)))
    prompts = [[10 + i, *PROMPTS[i % 4]][:20] for i in range(CLIENTS)]
    pieces = CALLS // CLIENTS - 2  # between the prefill and the release
    together = threading.Barrier(CLIENTS, timeout=120)
    sampling = {name: requests.generate([[1]], 1)[name] for name in requests.SAMPLING}

    def client(number: int) -> list[int]:
        prompt = prompts[number]
        given = remote.call("prefill_slot", requests.arrays({
            "slot": ["int32", [-1]], "tokens": ["int32", [prompt]],
            "lengths": ["int32", [len(prompt)]], **sampling,
        }))  # fmt: skip
        mine = {"slot": given["slot"], "owner": given["owner"]}
        tokens = [int(given["token"][0])]
        together.wait()
        for _ in range(pieces):
            made = remote.call("decode_slot", {**mine, **requests.arrays({
                "max_new_tokens": ["int32", [1]], "stop_tokens": ["int32", [[-1]]], **sampling,
            })})  # fmt: skip
            tokens += made["tokens"][0, : made["counts"][0]].tolist()
        remote.call("release_slot", mine)
        return tokens

    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(client, range(CLIENTS)))
    assert found == [_local(model, prompt, pieces + 1) for prompt in prompts]


def test_slots_that_are_busy_free_or_foreign_are_refused_and_unharmed(
    bundle: Path, server: Server, model
):
    remote = RemoteModel(Bundle.open(bundle), connect(parse_address(server.grpc)))
    sampling = {name: requests.generate([[1]], 1)[name] for name in requests.SAMPLING}

    def prefill(slot: int = -1) -> dict[str, np.ndarray]:
        return remote.call("prefill_slot", requests.arrays({
            "slot": ["int32", [slot]], "tokens": ["int32", [PROMPTS[0]]],
            "lengths": ["int32", [len(PROMPTS[0])]], **sampling,
        }))  # fmt: skip

    def decode(slot: int, owner: int, new_tokens: int = 4) -> list[int]:
        made = remote.call("decode_slot", requests.arrays({
            "slot": ["int32", [slot]], "owner": ["int64", [owner]],
            "max_new_tokens": ["int32", [new_tokens]], "stop_tokens": ["int32", [[-1]]],
            **sampling,
        }))  # fmt: skip
        return made["tokens"][0].tolist()

    given = [prefill() for _ in range(SLOTS)]
    slot, owner = int(given[0]["slot"][0]), int(given[0]["owner"][0])
    other = int(given[1]["slot"][0])
    assert len({int(g["slot"][0]) for g in given}) == len({int(g["owner"][0]) for g in given}) == 8
    for refused, message in (
        (lambda: prefill(), "slot: expected a free one"),
        (lambda: prefill(slot), "slot: expected a free one"),
        (lambda: decode(other, owner), "owner: expected the owner of the slot"),
        (lambda: decode(slot, owner + 1), "owner: expected the owner of the slot"),
        (lambda: decode(SLOTS, owner), "slot: expected 0 to 7"),
        (lambda: decode(slot, owner, 60), "max_new_tokens: expected at most 64"),
    ):
        with pytest.raises(UsageError, match=message):
            refused()
    for g in given[1:]:
        remote.call("release_slot", {"slot": g["slot"], "owner": g["owner"]})
    with pytest.raises(UsageError, match="slot: expected one in use, this one is free"):
        decode(other, owner)
    assert decode(slot, owner, 8) == _local(model, PROMPTS[0], 9)[1:]
    # Calls of one slot at the same time: one works, the others are refused as busy or done after.
    whole = _local(model, PROMPTS[0], 41)

    refusals: list[str] = []

    def racing(_: int) -> list[int] | None:
        try:
            return decode(slot, owner, 8)
        except UsageError as error:
            refusals.append(str(error))
            return None

    with ThreadPoolExecutor(4) as pool:
        found = [tokens for tokens in pool.map(racing, range(4)) if tokens is not None]
    assert sorted(found) == sorted(whole[9 + 8 * i : 17 + 8 * i] for i in range(len(found)))
    assert all("slot: expected one that is idle, this one is busy" in text for text in refusals)
    remote.call("release_slot", {"slot": given[0]["slot"], "owner": given[0]["owner"]})


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_names_the_field_and_the_server_keeps_serving(server, bundle, name):
    field, inputs = BAD[name]
    remote = RemoteModel(Bundle.open(bundle), connect(parse_address(server.grpc)))
    with pytest.raises(UsageError) as refused:
        remote.call("generate", requests.arrays(inputs))
    assert f"INVALID_ARGUMENT: {field}: expected " in str(refused.value)
    assert "\n" not in str(refused.value)
    fine = remote.call("generate", requests.arrays(requests.generate([PROMPTS[0]], 4)))
    assert fine["counts"].tolist() == [4]


def test_an_unknown_signature_is_named_and_the_server_keeps_serving(remote: RemoteModel):
    unknown = replace(remote.signature("generate"), name="chat")
    request = requests.arrays(requests.generate([PROMPTS[0]], 4))
    with pytest.raises(UsageError, match=r"(?i)(INVALID_ARGUMENT|HTTP 400): .*signature.*chat"):
        remote.client.predict(unknown, request)
    assert remote.call("generate", request)["counts"].tolist() == [4]


def test_refusals_of_the_command_are_one_line(gemma3_run: Run, bundle: Path, server: Server):
    for flags, message in (
        (("--server", "nonsense"), "--server: expected HOST:PORT"),
        (("--server", "127.0.0.1:1"), "no server answers"),
        (("--server", "http://127.0.0.1:1"), "no server answers"),
        (("--server", f"{server.grpc}/other"), "NOT_FOUND"),
        (("--server", server.grpc, "--mesh", "1x2"), "--mesh and --server exclude each other"),
        (("--server", server.grpc, "--logprobs", "2"), "--logprobs and --server exclude"),
        (("--server", server.grpc, "--max-new-tokens", "70"), "max_new_tokens: expected at most"),
        (("--server", server.rest, "--max-new-tokens", "70"), "max_new_tokens: expected at most"),
    ):
        status, out, err = gemma3_run(bundle, "--tokens", "5,6", "--json", *flags)
        assert (status, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


def test_a_client_needs_no_tensorflow(bundle: Path, server: Server):
    code = (
        "import sys\nsys.modules['tensorflow'] = None\n"
        "from gemma3_export.runtime.commands.run import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, bundle, "--server", server.grpc, "--tokens", "5", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
