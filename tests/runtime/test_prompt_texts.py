from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.runtime.commands.prompt_texts import MOST_BYTES, read_prompts

READS = """
import sys
from gemma3_export.runtime.commands.prompt_texts import read_prompts
sys.stdout.buffer.write(repr(read_prompts(["before", "-"], [])).encode())
"""
PIPED = """
import sys
from gemma3_export.runtime.commands import prompt_texts
prompt_texts.PATIENCE_S = 0.1
sys.stdout.buffer.write(repr(prompt_texts.read_piped()).encode())
"""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a fox\n", "a fox"),
        (b"a fox\r\n", "a fox"),
        (b"two\nlines\n\n", "two\nlines\n"),
        ("näh".encode(), "näh"),
        (b"", ""),
    ],
)
def test_a_file_is_its_text_without_the_newline_at_its_end(
    tmp_path: Path, content: bytes, text: str
):
    (tmp_path / "f").write_bytes(content)
    assert read_prompts(["first"], [str(tmp_path / "f")]) == ("first", text)


def test_a_dash_is_standard_input():
    done = subprocess.run([sys.executable, "-c", READS], input=b"a fox\n", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"('before', 'a fox')", b"")


@pytest.mark.parametrize(
    ("content", "texts"), [(b"a fox\n", b"('a fox',)"), (b"\n", b"()"), (b"", b"()")]
)
def test_a_pipe_is_a_prompt_unless_it_is_empty(content: bytes, texts: bytes):
    done = subprocess.run([sys.executable, "-c", PIPED], input=content, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, texts, b"")


def test_a_file_on_standard_input_is_a_prompt_and_a_device_is_none(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"two\nlines\n")
    for name, texts in ((tmp_path / "f", b"('two\\nlines',)"), (Path("/dev/zero"), b"()")):
        with name.open("rb") as file:
            done = subprocess.run([sys.executable, "-c", PIPED], stdin=file, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, texts, b"")


def test_a_pipe_that_says_nothing_is_waited_for_and_that_is_said():
    process = subprocess.Popen(
        [sys.executable, "-c", PIPED],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    said = process.stderr.readline()
    out, err = process.communicate(b"late\n", timeout=50)
    assert said == b"waiting for the prompt on standard input; --prompt TEXT gives one\n"
    assert (process.returncode, out, err) == (0, b"('late',)", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "expected text in UTF-8; convert it first"),
        (b"a" * (MOST_BYTES + 1), f"expected at most {MOST_BYTES} bytes of text, got more"),
    ],
    ids=["bytes", "large"],
)
def test_what_is_no_prompt_is_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_prompts([], [str(tmp_path / "f")])
    assert str(caught.value) == f"--prompt-file {tmp_path / 'f'}: {message}"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"cannot be read \(No such file or directory\)"):
        read_prompts([], [str(tmp_path / "none")])
