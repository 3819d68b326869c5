from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path

import pytest
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.runtime.api import model as api
from gemma3_export.runtime.requests.request import Request

from .conftest import Command, run_python
from .toy_bundle import BOS, END_OF_TURN, Toy, copy_bundle, make_toy_bundle
from .toy_model import VOCAB, reference_greedy, reference_logits

PROMPT = [BOS, 17, 18, 40]
TOKENS = ",".join(map(str, PROMPT))


def lines(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def test_json_has_the_fields_of_the_contract(toy: Path, gemma3_run: Command):
    status, out, err = gemma3_run(
        toy, "--tokens", TOKENS, "--max-new-tokens", 9, "--ignore-eos", "--json", "--logprobs", 2
    )
    (value,) = lines(out)
    assert (status, err) == (0, "")
    assert list(value) == ["tokens", "text", "finish_reason", "logprobs", "stats"]
    assert value["tokens"] == reference_greedy(PROMPT, 9)
    assert value["finish_reason"] == "length"
    assert [len(step) for step in value["logprobs"]] == [2] * 9
    assert [step[0][0] for step in value["logprobs"]] == value["tokens"]
    stats = value["stats"]
    assert list(stats) == [
        "load_s", "first_token_s", "prefill_tok_s", "decode_tok_s", "peak_rss_bytes", "variant",
        "mesh",
    ]  # fmt: skip
    assert (stats["variant"], stats["mesh"]) == ("portable", "1x1")
    assert 0 < stats["load_s"] < stats["first_token_s"]
    assert stats["prefill_tok_s"] > 0
    assert stats["decode_tok_s"] > 0
    assert stats["peak_rss_bytes"] > 50e6


def test_one_token_has_no_decode_rate(toy: Path, gemma3_run: Command):
    _, out, _ = gemma3_run(toy, "--tokens", TOKENS, "--max-new-tokens", 1, "--json")
    (value,) = lines(out)
    assert value["stats"]["decode_tok_s"] is None
    assert "logprobs" not in value


def test_one_prompt_prints_its_text_and_a_newline(toy: Path, gemma3_run: Command):
    arguments = (toy, "--prompt", "the fox", "--max-new-tokens", 20)
    status, out, err = gemma3_run(*arguments)
    _, as_json, _ = gemma3_run(*arguments, "--json")
    assert (status, err) == (0, "")
    assert out == lines(as_json)[0]["text"] + "\n"


def test_stats_are_a_table_on_stderr(toy: Path, gemma3_run: Command):
    status, out, err = gemma3_run(toy, "--tokens", TOKENS, "--max-new-tokens", 5, "--stats")
    assert status == 0
    assert out.count("\n") >= 1
    names = [line.split("  ")[0] for line in err.splitlines()]
    assert names == ["load", "first token", "prefill", "decode", "peak memory", "mesh"]
    assert err.splitlines()[-1].split(maxsplit=2) == [
        "mesh", "1x1", "1 cpu device; the bundle has 2x4 too",
    ]  # fmt: skip
    assert "4 tokens" in err


def test_several_prompts_are_one_object_a_line_in_order(toy: Path, gemma3_run: Command):
    prompts = [PROMPT, [BOS], [BOS, *range(40, 60)], [9], [BOS, 11]]
    flags = [flag for prompt in prompts for flag in ("--tokens", ",".join(map(str, prompt)))]
    status, out, _ = gemma3_run(toy, *flags, "--max-new-tokens", 6, "--ignore-eos")
    assert status == 0
    assert [value["tokens"] for value in lines(out)] == [reference_greedy(p, 6) for p in prompts]


def test_a_mesh_of_the_bundle_gives_the_same_tokens(toy: Path, gemma3_run: Command):
    _, out, _ = gemma3_run(
        toy, "--tokens", TOKENS, "--max-new-tokens", 6, "--ignore-eos", "--json", "--mesh", "2x4",
        "--platform", "cpu",
    )  # fmt: skip
    assert lines(out)[0]["tokens"] == reference_greedy(PROMPT, 6)


def test_new_tokens_default_to_what_fits(toy: Path, gemma3_run: Command):
    _, out, _ = gemma3_run(toy, "--tokens", TOKENS, "--ignore-eos", "--json")
    assert lines(out)[0]["tokens"] == reference_greedy(PROMPT, 60)


def test_chat_is_asked_in_turns_and_ends_at_the_end_of_a_turn(
    toy: Path, gemma3_run: Command, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def run_request(model: object, request: Request, *_: object):
        asked.append(request)
        return iter(())

    monkeypatch.setattr(api, "run_request", run_request)
    gemma3_run(toy, "--prompt", "the fox", "--chat")
    gemma3_run(toy, "--prompt", "the fox", "--chat", "--ignore-eos")
    first, second = asked
    assert first.prompts == second.prompts
    assert first.prompts[0][:2] == [BOS, END_OF_TURN - 1]
    assert first.prompts[0].count(END_OF_TURN) == 1
    assert (first.stop_token_ids, second.stop_token_ids) == ((END_OF_TURN,), ())


def test_stop_text_ends_the_text(toy: Path, gemma3_run: Command):
    arguments = (toy, "--tokens", TOKENS, "--max-new-tokens", 20, "--ignore-eos", "--json")
    text = lines(gemma3_run(*arguments)[1])[0]["text"]
    value = lines(gemma3_run(*arguments, "--stop", text[4:6], "--stop", "never")[1])[0]
    assert (value["text"], value["finish_reason"]) == (text.partition(text[4:6])[0], "stop")


def test_score_json_is_loss_and_one_logprob_for_each_token_but_the_first(
    toy: Path, gemma3_run: Command
):
    status, out, _ = gemma3_run(toy, "--score", "--tokens", TOKENS, "--json")
    (value,) = lines(out)
    logits = reference_logits(PROMPT)
    expected = [
        float(logits[i, token] - math.log(sum(math.exp(x) for x in logits[i])))
        for i, token in enumerate(PROMPT[1:])
    ]
    assert status == 0
    assert list(value) == ["loss", "logprobs"]
    assert value["logprobs"] == pytest.approx(expected, abs=1e-4)
    assert value["loss"] == pytest.approx(-sum(expected) / 3, abs=1e-4)


def test_score_of_one_text_is_a_table_and_of_several_one_object_a_line(
    toy: Path, gemma3_run: Command
):
    _, table, _ = gemma3_run(toy, "--score", "--prompt", "the")
    *rows, summary = table.splitlines()
    assert [row.split(maxsplit=2)[2] for row in rows] == ["'the'"]
    assert summary.startswith("loss ")
    _, out, _ = gemma3_run(toy, "--score", "--tokens", "2,3", "--tokens", TOKENS)
    assert [len(value["logprobs"]) for value in lines(out)] == [1, 3]


def check_refusal(result: tuple[int, str, str], message: str) -> None:
    status, out, err = result
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to go on from: pass --prompt TEXT or --tokens"),
        (["--prompt", "a", "--tokens", "2"], "--prompt and --tokens exclude each other"),
        (["--tokens", "2", "--chat"], "--chat needs --prompt"),
        (["--tokens", "2,x"], "--tokens: expected ids separated by commas, such as 2,17,18"),
        (["--tokens", ""], "--tokens: expected ids separated by commas"),
        (["--tokens", f"2,{VOCAB}"], f"token 2 of prompt 1 is {VOCAB}: expected an id from 0 to"),
        (["--tokens", "-1"], "token 1 of prompt 1 is -1"),
        (["--tokens", "99999999999999999999"], "expected an id from 0 to 383"),
        (["--tokens", ",".join(["2"] * 65)], "prompt of 65 tokens and 1 new token does not fit"),
        (["--tokens", "2", "--max-new-tokens", "64"], "ask for at most 63 new tokens, or re-exp"),
        (["--tokens", "2", "--max-new-tokens", "0"], "expected at least 1, got 0"),
        (["--tokens", "2", "--max-new-tokens", "x"], "'x' is not a valid integer"),
        (["--tokens", "2", "--temperature", "nan"], "--temperature: expected a finite number"),
        (["--tokens", "2", "--top-k", "-1"], "--top-k: expected 0 to "),
        (["--tokens", "2", "--top-p", "0.9"], "--top-p needs --temperature above 0: at 0, the def"),
        (["--tokens", "2", "--top-p", "0"], "--top-p: expected above 0 and at most 1"),
        (["--tokens", "2", "--min-p", "2"], "--min-p: expected between 0 and 1"),
        (
            ["--tokens", "2", "--repetition-penalty", "1.5"],  # the toy's programs are older
            "--repetition-penalty: expected 1 (off), since the programs of ",
        ),
        (["--tokens", "2", "--seed", "-1"], "--seed: expected between 0 and 4294967295"),
        (["--tokens", "2", "--stop", ""], "stop text is empty"),
        (["--tokens", "2", "--logprobs", "0"], "--logprobs: expected at least 1, got 0"),
        (["--tokens", "2", "--logprobs", "999"], "logprobs: expected 0 to 384"),
        (["--tokens", "2", "--mesh", "4x2"], "expected a mesh of the bundle (1x1, 2x4), got 4x2"),
        (["--tokens", "2", "--platform", "tpu"], "expected a platform of mesh 1x1 (cpu), got tpu"),
        (["--tokens", "2", "--image", "a.png"], "has no encode_image program"),
        (["--tokens", "2", "--classify"], "has no classify program"),
        (["--tokens", "2", "--embed"], "has no embed program"),
        (["--tokens", "2", "--score"], "prompt 1 has one token: a score needs at least 2"),
        (["--tokens", "2", "--score", "--classify"], "--score and --classify exclude each other"),
        (["--tokens", "2,3", "--score", "--stop", "x"], "--score and --stop exclude each other"),
        (["--nonsense"], "No such option"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_status_2(
    toy: Path, gemma3_run: Command, arguments: list[str], message: str
):
    check_refusal(gemma3_run(toy, *arguments), message)


def test_a_bundle_that_is_not_there_is_one_line_and_status_2(tmp_path: Path, gemma3_run: Command):
    check_refusal(gemma3_run(tmp_path / "none", "--tokens", "2"), "expected the folder of a bundle")


def test_a_mesh_larger_than_the_machine_is_one_line_and_status_2(
    tmp_path: Path, gemma3_run: Command
):
    toy = Toy(meshes=("4x4",), batch=(1,), prefill=(4,), programs=(ProgramName.PREFILL,))
    bundle = make_toy_bundle(tmp_path / "b", toy)
    check_refusal(gemma3_run(bundle, "--tokens", "2"), "mesh 4x4 needs 16 cpu devices, found 8")


def test_an_abstract_bundle_is_one_line_and_status_2(tmp_path: Path, gemma3_run: Command):
    bundle = make_toy_bundle(tmp_path / "b", Toy(batch=(1,), prefill=(4,), abstract=True))
    check_refusal(gemma3_run(bundle, "--tokens", "2"), "exported with --abstract")


def test_a_bundle_without_a_tokenizer_takes_tokens_and_prints_json_only(
    tmp_path: Path, gemma3_run: Command
):
    toy = Toy(batch=(1,), prefill=(4,), tokenizer=False)
    bundle = make_toy_bundle(tmp_path / "b", toy)
    for arguments in (["--prompt", "a"], ["--tokens", "2"]):
        check_refusal(
            gemma3_run(bundle, *arguments), "names no tokenizer: pass --tokens and --json"
        )
    _, out, _ = gemma3_run(
        bundle, "--tokens", TOKENS, "--json", "--max-new-tokens", 3, "--ignore-eos"
    )
    assert lines(out)[0]["tokens"] == reference_greedy(PROMPT, 3)


def test_a_damaged_tokenizer_is_one_line_and_status_2(
    small_toy: Path, tmp_path: Path, gemma3_run: Command
):
    bundle = copy_bundle(small_toy, tmp_path / "b")
    path = bundle / "tokenizer" / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    check_refusal(gemma3_run(bundle, "--prompt", "a"), "tokenizer.model: contents changed")


def test_ctrl_c_ends_at_once_with_the_usual_status_and_no_traceback(toy: Path):
    code = (
        "import os, signal, sys, threading, time\n"
        "from gemma3_export.runtime.commands import run as cli\n"
        "def interrupted(*_):\n"
        "    threading.Thread(target=time.sleep, args=[60]).start()  # as a compilation would\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "cli._generate = interrupted\n"
        "cli.main()\n"
    )
    result = run_python(code, toy, "--tokens", "2")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_device_that_is_busy_for_minutes_is_not_waited_for(toy: Path, number: signal.Signals):
    """As an image that is being encoded: the main thread is inside a call of the device."""
    code = (
        "import os, sys, threading, time\n"
        "from gemma3_export.runtime.commands import run as cli\n"
        "def interrupted(*_):\n"
        "    import jax, jax.numpy as jnp\n"
        "    busy = jax.jit(lambda x: jax.lax.fori_loop(0, 10**6, lambda i, x: x @ x * 1e-9, x))\n"
        "    busy = busy.lower(jnp.ones((512, 512))).compile()\n"
        "    ones = jnp.ones((512, 512))\n"
        "    def tell():\n"
        "        print(time.monotonic(), flush=True)\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    threading.Timer(1, tell).start()\n"
        "    busy(ones).block_until_ready()\n"
        "cli._generate = interrupted\n"
        "cli.main()\n"
    )
    result = run_python(code, toy, "--tokens", "2")
    ended = time.monotonic()
    assert (result.returncode, result.stderr) == (128 + number, "")
    assert ended - float(result.stdout) < 2


def test_an_interrupt_after_the_command_is_left_to_its_caller(toy: Path, gemma3_run: Command):
    before = signal.getsignal(signal.SIGINT)
    gemma3_run(toy, "--tokens", "2", "--max-new-tokens", "1")
    assert signal.getsignal(signal.SIGINT) == before


def test_help_says_that_the_default_is_greedy(gemma3_run: Command):
    status, out, _ = gemma3_run("--help")
    assert gemma3_run("-h")[:2] == (0, out)
    assert status == 0
    assert "0, the default, is greedy" in " ".join(out.split())


BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

BLOCKED = ("gemma3_export.model", "gemma3_export.export", "flax", "tensorflow", "orbax", "gguf")

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in BLOCKED):
            raise AssertionError(f"the runtime imports {name}")
        return None

sys.meta_path.insert(0, Refuse())
from gemma3_export.runtime.commands.run import main
main()
"""


def test_a_fresh_process_generates_on_eight_devices_with_no_model_code(toy: Path):
    result = run_python(
        BLOCKED, toy, "--mesh", "2x4", "--tokens", TOKENS, "--max-new-tokens", 5, "--ignore-eos",
        "--json",
    )  # fmt: skip
    assert result.stderr == ""
    assert json.loads(result.stdout)["tokens"] == reference_greedy(PROMPT, 5)


@pytest.mark.parametrize(
    ("environment", "arguments", "message"),
    [
        ({}, ["--platform", "cuda"], "platform cuda: JAX finds no such devices here; install"),
        ({}, ["--platform", "tpu"], "platform tpu: JAX finds no such devices here; install"),
        ({"JAX_PLATFORMS": "tpu"}, [], "JAX cannot start here: Unable to initialize backend 'tpu'"),
        (
            {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
            ["--mesh", "2x4"],
            "needs 8 cpu devices, found 4; set xla_force_host_platform_device_count in XLA_FLAGS",
        ),
    ],
)
def test_devices_that_a_fresh_process_does_not_find_are_one_line_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    arguments: list[str],
    message: str,
):
    toy = Toy(
        meshes=("1x1", "2x4"),
        platforms=("cpu", "cuda", "tpu"),
        batch=(1,),
        prefill=(4,),
        programs=(ProgramName.PREFILL,),
    )
    bundle = make_toy_bundle(tmp_path / "b", toy)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = "from gemma3_export.runtime.commands.run import main\nmain()\n"
    result = run_python(code, bundle, "--tokens", "2", *arguments)
    check_refusal((result.returncode, result.stdout, result.stderr), message)


def test_jax_is_not_imported_before_a_mistake_is_found(toy: Path):
    code = (
        "import sys\n"
        "from gemma3_export.runtime.commands import run as cli\n"
        "sys.argv[1:] = [sys.argv[1], '--prompt', 'a', '--mesh', '9x9']\n"
        "try: cli.main()\n"
        "finally: print('jax' in sys.modules)\n"
    )
    result = run_python(code, toy)
    assert result.stdout == "False\n"
    assert "expected a mesh of the bundle (1x1, 2x4), got 9x9" in result.stderr
