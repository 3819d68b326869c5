"""Control tokens as stop texts, control tokens shown on request, and texts that are not UTF-8."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import Request, plan_request
from gemma3_export.runtime.text.tokenizer import check_text

from .toy_bundle import BOS, toy_tokenizer
from .toy_model import reference_greedy

Command = Callable[..., tuple[int, str, str]]
CONTROL = {0: "<pad>", 1: "<eos>", 2: "<bos>", 4: "<start_of_turn>", 5: "<end_of_turn>"}
COUNT = 20


def prompt_with_control() -> tuple[list[int], list[int], int]:
    """A prompt, what follows it, and where in that a control token comes after some text."""
    for first in range(6, 200):
        tokens = reference_greedy([BOS, first], COUNT)
        at = next((at for at, token in enumerate(tokens) if token in CONTROL), 0)
        if 2 <= at < COUNT - 1:
            return [BOS, first], tokens, at
    raise AssertionError("no prompt of the toy model is followed by a control token")


PROMPT, TOKENS, AT = prompt_with_control()
FLAGS = ("--tokens", ",".join(map(str, PROMPT)), "--max-new-tokens", COUNT, "--ignore-eos")


def completion(done: tuple[int, str, str]) -> dict:
    assert done[0] == 0, done[2]
    return json.loads(done[1])


def test_a_stop_text_that_is_a_control_token_stops_at_its_id(toy: Path, gemma3_run: Command):
    stop = CONTROL[TOKENS[AT]]
    got = completion(gemma3_run(toy, *FLAGS, "--json", "--stop", stop))
    whole = completion(gemma3_run(toy, *FLAGS, "--json"))
    assert got["tokens"] == TOKENS[: AT + 1]
    assert got["finish_reason"] == "stop"
    assert whole["tokens"] == TOKENS
    assert whole["text"].startswith(got["text"])
    assert stop not in got["text"]


def test_control_tokens_are_shown_on_request(toy: Path, gemma3_run: Command, model: LoadedModel):
    shown = completion(gemma3_run(toy, *FLAGS, "--json", "--special"))["text"]
    hidden = completion(gemma3_run(toy, *FLAGS, "--json"))["text"]
    decoder = model.tokenizer.decoder(shows_special=True)
    assert shown == "".join(map(decoder.push, TOKENS)) + decoder.close()
    assert CONTROL[TOKENS[AT]] in shown
    assert CONTROL[TOKENS[AT]] not in hidden
    assert gemma3_run(toy, *FLAGS, "--special")[1] == shown + "\n"


@pytest.mark.parametrize("stop", ["x<end_of_turn>", "<bos><eos>", " <pad>"])
def test_a_stop_text_that_no_text_has_is_refused_unless_they_are_shown(
    model: LoadedModel, stop: str
):
    request = Request([PROMPT], 2, stop_texts=[stop])
    with pytest.raises(UsageError, match=r"has the control token <\w+> in it, .*special"):
        plan_request(model, request)
    assert plan_request(model, Request([PROMPT], 2, stop_texts=[stop], shows_special=True))


@pytest.mark.parametrize("stop", ["<end_of_turn", "end_of_turn>", "the", "<unk", "\u2581"])
def test_other_stop_texts_are_looked_for(model: LoadedModel, stop: str):
    assert model.tokenizer.stop_token(stop) is None


def test_the_unknown_piece_stops_at_its_id(model: LoadedModel):
    assert model.tokenizer.stop_token("<unk>") == 3


@pytest.mark.parametrize("flag", ["--prompt", "--stop"])
def test_text_that_is_not_utf8_is_one_line(toy: Path, gemma3_run: Command, flag: str):
    given = b"caf\xe9 \xe6\x97\xa5'".decode(errors="surrogateescape")
    more = () if flag == "--prompt" else ("--tokens", "2")
    status, out, err = gemma3_run(toy, *more, flag, given)
    assert (status, out) == (2, "")
    assert err == f'error: {flag}: expected text in UTF-8, got "caf\\xe9 日\'"\n'


def test_text_from_other_programs_is_checked_too(model: LoadedModel):
    with pytest.raises(UsageError, match=r"prompt: expected text in UTF-8, got '\\ud800'"):
        model.tokenizer.encode("\ud800", add_bos=True)
    check_text("prompt", "日本 \U0001f642")


def test_the_bytes_that_were_checked_are_what_is_read(toy: Path, monkeypatch: pytest.MonkeyPatch):
    from gemma3_export.artifacts.bundle import Bundle
    from gemma3_export.runtime.loading import bundle as opening

    monkeypatch.setattr(opening, "_LAST_TOKENIZER", {})
    bundle = Bundle.open(toy)
    read = Bundle.read

    def read_once(self: Bundle, name: str) -> bytes:
        content = read(self, name)
        monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read again"))
        monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("opened again"))
        return content

    monkeypatch.setattr(Bundle, "read", read_once)
    assert opening.open_tokenizer(bundle).size == 320


def test_generating_nothing_excludes_showing(toy: Path, gemma3_run: Command):
    status, _, err = gemma3_run(toy, "--score", "--tokens", "2,9", "--special")
    assert (status, err) == (
        2, "error: --score and --special exclude each other: --score generates nothing\n",
    )  # fmt: skip


def test_toy_pieces_are_those_named_here():
    assert all(name.encode() in toy_tokenizer() for name in CONTROL.values())
