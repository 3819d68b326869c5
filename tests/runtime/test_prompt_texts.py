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
