"""Servers that answer wrongly: each lie is one line with server and field, and none is a loop."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.artifacts.manifest import ProgramName, SavedModelRecord, Signature
from gemma3_export.artifacts.serving import messages as predict
from gemma3_export.artifacts.serving.signatures import VERSION_FOLDER, signatures
from gemma3_export.runtime.commands import run as cli
from gemma3_export.runtime.requests.generate import Completion, Request
from gemma3_export.runtime.serving.client import connect, parse_address
from gemma3_export.runtime.serving.remote import (
    RemoteModel,
    classify_remote,
    embed_remote,
    run_remote,
    score_remote,
)

from ..runtime.toy_bundle import EOS, GENERATING, Toy, make_toy_bundle
from ..runtime.toy_model import EMBED, LABELS, VOCAB

SLOTS = 4
Arrays = dict[str, np.ndarray]
Lie = Callable[[str, Arrays], Arrays]
"""Turns the right outputs of a signature into wrong ones."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _served(tmp_path_factory.mktemp("lies") / "toy", GENERATING, SLOTS)


def _served(out: Path, programs: tuple[ProgramName, ...], slots: int) -> Bundle:
    """A toy bundle that says it has a SavedModel; what answers is the test."""
    opened = Bundle.open(make_toy_bundle(out, Toy(batch=(1, 2), prefill=(4,), programs=programs)))
    described = signatures(opened.manifest, slots)
    record = SavedModelRecord(VERSION_FOLDER, 1, slots, described)
    return replace(opened, manifest=replace(opened.manifest, saved_model=record))


def _right(signature: str, inputs: Arrays) -> Arrays:
    """What a model would answer that says token 9 for ever."""
    one = np.array([9], np.int32)
    if signature == "prefill_slot":
        return {"slot": one[:1] * 0, "owner": np.array([77], np.int64), "token": one}
    if signature == "release_slot":
        return {"slot": inputs["slot"]}
    rows = len(inputs.get("lengths", one))
    if signature == "score":
        width = inputs["tokens"].shape[1]
        return {
            "logprobs": np.full((rows, width), -1, np.float32), "loss": np.ones(rows, np.float32)
        }  # fmt: skip
    if signature == "classify":
        return {"scores": np.zeros((rows, len(LABELS)), np.float32)}
    if signature == "embed":
        return {"embedding": np.zeros((rows, EMBED), np.float32)}
    limit = inputs["max_new_tokens"]
    return {
        "tokens": np.full((rows, limit.max()), 9, np.int32), "counts": limit,
        "finish_reasons": np.array([b"length"] * rows, object),
    }  # fmt: skip


@dataclass
class Stub:
    """A client whose server lies about one signature."""

    lies_about: str = ""
    lie: Lie = lambda _, right: right
    target: str = "stub:1"
    called: list[str] = field(default_factory=list)

    def predict(self, signature: Signature, inputs: Arrays) -> Arrays:
        from gemma3_export.runtime.serving.answers import check_outputs

        self.called.append(signature.name)
        assert len(self.called) < 100, "a loop without end"
        outputs = _right(signature.name, dict(inputs))
        if signature.name == self.lies_about:
            outputs = self.lie(signature.name, outputs)
        return check_outputs(self.target, signature, outputs)


def _generate(model: RemoteModel, streams: bool, new_tokens: int = 11) -> list[Completion]:
    request = Request([[2, 17, 18], [2]], new_tokens)
    return list(run_remote(model, request, (lambda _, text: None) if streams else None))


def _without(name: str) -> Lie:
    return lambda _, right: {key: value for key, value in right.items() if key != name}


def _with(name: str, value: Any) -> Lie:
    return lambda _, right: {**right, name: np.asarray(value, right[name].dtype)}


def _of_dtype(name: str, dtype: type) -> Lie:
    return lambda _, right: {**right, name: right[name].astype(dtype)}


NEW_TOKENS = {
    "no counts": ("counts", _without("counts")),
    "no tokens": ("tokens", _without("tokens")),
    "counts of 0": ("counts", lambda _, r: {**r, "counts": r["counts"] * 0}),
    "negative counts": ("counts", lambda _, r: {**r, "counts": r["counts"] - 100}),
    "counts beyond the request": ("counts", lambda _, r: {**r, "counts": r["counts"] + 1}),
    "counts beyond the tokens": ("counts", lambda _, r: {**r, "tokens": r["tokens"][:, :1]}),
    "ends early": ("counts", lambda _, r: {**r, "counts": np.ones_like(r["counts"])}),
    "counts of more rows": ("counts", lambda _, r: {**r, "counts": np.tile(r["counts"], 3)}),
    "tokens of no row": ("tokens", lambda _, r: {**r, "tokens": r["tokens"][:0]}),
    "counts of another rank": ("counts", lambda _, r: {**r, "counts": r["counts"][:, None]}),
    "tokens of another type": ("tokens", _of_dtype("tokens", np.float32)),
    "tokens beyond the vocabulary": ("tokens", lambda _, r: {**r, "tokens": r["tokens"] + VOCAB}),
    "negative tokens": ("tokens", lambda _, r: {**r, "tokens": -r["tokens"]}),
    "another reason": ("finish_reasons", lambda _, r: {
        **r, "finish_reasons": np.array([b"tired"] * len(r["counts"]), object)
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", NEW_TOKENS)
@pytest.mark.parametrize("way", ["whole", "again", "slots"])
def test_new_tokens_that_cannot_be_are_refused_at_the_first_answer(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, way: str, name: str
):
    wrong, lie = NEW_TOKENS[name]
    signature = "decode_slot" if way == "slots" else "generate"
    client = Stub(signature, lie)
    monkeypatch.setattr(RemoteModel, "slots", SLOTS if way == "slots" else 0)
    with pytest.raises(ArtifactError) as refused:
        _generate(RemoteModel(bundle, client), way != "whole")
    message = str(refused.value)
    assert message.startswith(f"--server stub:1: {signature}: {wrong}: expected ")
    assert "is it the SavedModel of this bundle?" in message
    assert "\n" not in message
    assert client.called.count(signature) == 1
    if way == "slots":
        assert client.called[-1] == "release_slot"


@pytest.mark.parametrize(
    ("wrong", "lie"),
    [
        ("slot", _with("slot", [SLOTS])),
        ("slot", _with("slot", [-1])),
        ("slot", _with("slot", [0, 1])),
        ("owner", _without("owner")),
        ("token", _with("token", [VOCAB])),
        ("token", _with("token", [-1])),
        ("token", _with("token", [[1]])),
    ],
)
def test_a_slot_that_cannot_be_is_refused(bundle: Bundle, wrong: str, lie: Lie):
    model = RemoteModel(bundle, Stub("prefill_slot", lie))
    with pytest.raises(ArtifactError, match=f"^--server stub:1: prefill_slot: {wrong}: expected "):
        _generate(model, True)


def test_what_went_wrong_first_is_told_and_not_the_slot_that_cannot_be_given_back(bundle: Bundle):
    class Gone(Stub):
        def predict(self, signature: Signature, inputs: Arrays) -> Arrays:
            if signature.name == "release_slot":
                raise UsageError("the server is gone")
            return super().predict(signature, inputs)

    with pytest.raises(ArtifactError, match="counts: expected"):
        _generate(RemoteModel(bundle, Gone("decode_slot", NEW_TOKENS["counts of 0"][1])), True)


@pytest.mark.parametrize(
    ("wrong", "lie"),
    [
        ("logprobs", lambda _, r: {**r, "logprobs": r["logprobs"][:, 1:]}),
        ("logprobs", lambda _, r: {**r, "logprobs": r["logprobs"][1:]}),
        ("loss", lambda _, r: {**r, "loss": r["loss"][:1]}),
        ("loss", _without("loss")),
        ("loss", _of_dtype("loss", np.float64)),
    ],
)
def test_scores_that_cannot_be_are_refused(bundle: Bundle, wrong: str, lie: Lie):
    model = RemoteModel(bundle, Stub("score", lie))
    with pytest.raises(ArtifactError, match=f"^--server stub:1: score: {wrong}: expected "):
        score_remote(model, [[2, 3, 4], [2, 3]])


def test_class_scores_and_vectors_that_cannot_be_are_refused(tmp_path: Path):
    for program, ask, output in (
        (ProgramName.CLASSIFY, classify_remote, "scores"),
        (ProgramName.EMBED, embed_remote, "embedding"),
    ):
        served = _served(tmp_path / str(program), (program,), 0)
        assert len(ask(RemoteModel(served, Stub()), [[2, 3], [2], [5]])) == 3
        lies: list[Lie] = [
            lambda _, right, output=output: {output: right[output][:, 1:]},
            lambda _, right, output=output: {output: right[output][:-1]},
            _without(output),
        ]
        for lie in lies:
            model = RemoteModel(served, Stub(str(program), lie))
            with pytest.raises(ArtifactError, match=f"{program}: {output}: expected "):
                ask(model, [[2, 3], [2], [5]])


@pytest.mark.parametrize("way", ["whole", "again", "slots"])
def test_right_answers_and_rows_that_a_stop_token_ends_are_taken(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, way: str
):
    monkeypatch.setattr(RemoteModel, "slots", SLOTS if way == "slots" else 0)
    found = _generate(RemoteModel(bundle, Stub()), way != "whole")
    assert [done.tokens for done in found] == [[9] * 11] * 2

    def stops(_: str, right: Arrays) -> Arrays:
        tokens = np.tile(np.array([[9, EOS]], np.int32), (len(right["tokens"]), 1))
        return {**right, "tokens": tokens, "counts": np.full_like(right["counts"], 2)}

    client = Stub("decode_slot" if way == "slots" else "generate", stops)
    first = [9] if way == "slots" else []
    for done in _generate(RemoteModel(bundle, client), way != "whole"):
        assert (done.tokens, done.finish_reason) == ([*first, 9, EOS], "stop")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([[2**40]], 4), "token 1 of prompt 1 is 1099511627776"),
        (Request([[-1]], 4), "token 1 of prompt 1 is -1"),
        (Request([[]], 4), "prompt 1 is empty"),
        (Request([], 4), "no prompt"),
        (Request([[2]], 10**30), "max new tokens: expected at most 2147483647, got 1000"),
        (Request([[2]], 0), "max new tokens: expected at least 1, got 0"),
        (Request([[2]], 4, stop_token_ids=[2**40]), "stop token is 1099511627776"),
        (Request([[2]], 4, stop_texts=[""]), "stop text is empty"),
    ],
)
def test_what_no_server_can_be_asked_for_is_refused_before_it_is_asked(
    bundle: Bundle, request_: Request, message: str
):
    client = Stub()
    with pytest.raises(UsageError, match=f"^{message}"):
        list(run_remote(RemoteModel(bundle, client), request_))
    assert client.called == []
    for ask in (score_remote, classify_remote, embed_remote):
        with pytest.raises(UsageError):
            ask(RemoteModel(bundle, client), [[2**40]])


def _fields(*parts: tuple[int, bytes]) -> bytes:
    """Length-delimited fields of a protobuf message."""
    return b"".join(bytes([number << 3 | 2, len(data)]) + data for number, data in parts)


_HUGE = _fields((1, _fields((1, b"counts"), (2, b"\x08\x03" + _fields((2, _fields(
    (2, b"\x08" + b"\xff" * 5 + b"\x0f")
)))))))  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"\xff\xff\xff\xff", "expected an answer of the protocol, got bytes that are no Response"),
        (b"", "generate: tokens: expected int32 of shape (any,any), got nothing"),
        (_HUGE, "expected an answer of the protocol, got tensor of shape"),
        (
            predict.encode_response("m", "generate", {"tokens": np.zeros((1, 2), np.float32)}),
            "generate: tokens: expected int32 of shape (any,any), got float32 of shape (1,2)",
        ),
    ],
)
def test_bytes_over_grpc_that_are_no_answer_are_one_line(
    bundle: Bundle, raw_server: tuple[str, list[bytes]], answer: bytes, message: str
):
    target, answers = raw_server
    answers.append(answer)
    with pytest.raises(ArtifactError) as refused:
        _generate(RemoteModel(bundle, connect(parse_address(target))), False)
    assert str(refused.value).startswith(f"--server {target}: {message}")
    assert "\n" not in str(refused.value)


def _http(body: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.0 200 OK\r\nContent-Length: {size}\r\n\r\n{body}".encode()


def _outputs(**changes: Any) -> bytes:
    right = {"tokens": [[9] * 11] * 2, "counts": [11, 11], "finish_reasons": ["length"] * 2}
    return _http(json.dumps({"outputs": {**right, **changes}}))


def test_rest_answers_that_are_right_are_taken(bundle: Bundle, http_server):
    target, answers = http_server
    answers.append(_outputs())
    found = _generate(RemoteModel(bundle, connect(parse_address(target))), False)
    assert [done.tokens for done in found] == [[9] * 11] * 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_http("{"), "expected an answer of the protocol, got no JSON"),
        (_http("[" * 100000), "expected an answer of the protocol, got no JSON"),
        (_http("[1]"), "expected an answer of the protocol, got JSON without outputs"),
        (_http('{"outputs": [1]}'), "expected an answer of the protocol, got outputs without name"),
        (_http('{"outputs": ', 100), "expected an answer of the protocol, got no JSON"),
        (b"no http at all\r\n\r\n", "UNAVAILABLE: no server answers (no http at all"),
        (b"", "UNAVAILABLE: no server answers"),
        (_outputs(counts=[0, 0]), "generate: counts: expected 1 to 11 for row 1, got 0"),
        (_outputs(counts=[11]), "generate: counts: expected 2 rows, got 1"),
        (_outputs(counts=[2.5, 1]), "expected an answer of the protocol, got counts that is no"),
        (_outputs(counts=[2**40, 1]), "expected an answer of the protocol, got counts that is no"),
        (_outputs(counts=[2**80, 1]), "expected an answer of the protocol, got counts that is no"),
        (_outputs(counts=[[1], 1]), "expected an answer of the protocol, got counts that is no"),
        (_outputs(counts=None), "expected an answer of the protocol, got counts that is no int32"),
        (_outputs(tokens="abc"), "expected an answer of the protocol, got tokens that is no int32"),
        (_outputs(finish_reasons=[1, 2]), "generate: finish_reasons: expected stop or length, got"),
    ],
)
def test_rest_answers_that_are_none_are_one_line(
    bundle: Bundle, http_server: tuple[str, list[bytes]], answer: bytes, message: str
):
    target, answers = http_server
    answers.append(answer)
    with pytest.raises(UsageError) as refused:
        _generate(RemoteModel(bundle, connect(parse_address(target))), False)
    assert str(refused.value).startswith(f"--server {target}: {message}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "2,99999999999"], "token 2 of prompt 1 is 99999999999: expected an id from"),
        (["--tokens", "2", "--max-new-tokens", 10**12], "max new tokens: expected at most"),
        (["--tokens", "2,3", "--score", "--labels", "2,3"], "--labels and --server exclude"),
        (["--tokens", "2,3", "--score", "--outputs-to", "f.npz"], "--outputs-to and --server"),
        (["--tokens", "2", "--no-cache"], "--no-cache and --server exclude each other"),
        (["--tokens", "2"], "generate: counts: expected 1 to"),
    ],
)
def test_the_command_says_it_in_one_line_with_status_2(
    bundle: Bundle,
    http_server: tuple[str, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[object],
    message: str,
):
    target, answers = http_server
    answers.append(_outputs(counts=[0], tokens=[[9]], finish_reasons=["length"]))
    monkeypatch.setattr(cli, "_open", lambda _: bundle)
    flags = [str(bundle.root), "--server", target, "--json", *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", ["gemma3-run", *flags])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert message in err
