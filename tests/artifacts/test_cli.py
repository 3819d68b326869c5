import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from gemma3_export.artifacts.errors import ArtifactError, UsageError, argument, run_command
from gemma3_export.artifacts.inspect.summary import format_bytes
from gemma3_export.runtime.commands.bundle import main

Result = tuple[int, str, str]


@pytest.fixture
def bundle_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run gemma3-bundle with arguments: (exit status, stdout, stderr)."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["gemma3-bundle", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_inspect_shows_every_part(bundle_command: Callable[..., Result], tiny: Path):
    status, out, err = bundle_command("inspect", tiny)
    assert (status, err) == (0, "")
    for text in (
        "tiny (Gemma3ForCausalLM)",
        "data=2 model=4",
        "kv heads 1 do not divide by model=4: replicated",
        "0.750",  # a row of the cache against a uniform one: 384 of 512 bytes
        "weights/model.safetensors",
        "tokenizer/tokenizer.model, bos added",
        "28 x 28 RGB, 4 tokens each",
        "jax 0.10.2",
        "generate",
    ):
        assert text in out


def test_inspect_of_an_abstract_bundle_says_that_it_has_no_weights(
    bundle_command: Callable[..., Result], abstract: Path
):
    status, out, _ = bundle_command("inspect", abstract)
    assert status == 0
    assert "none (abstract bundle; a real one has 840 B)" in out
    assert "none, token ids only" in out


def test_inspect_json_has_the_figures(bundle_command: Callable[..., Result], tiny: Path):
    status, out, _ = bundle_command("inspect", tiny, "--json")
    summary = json.loads(out)
    assert status == 0
    assert summary["weights"]["bytes"] == 840
    assert [mesh["weight_bytes_per_device"] for mesh in summary["meshes"]] == [840, 264]
    (cache,) = summary["caches"]
    assert (cache["bytes_per_row"], cache["uniform_bytes_per_row"]) == (384, 512)
    decode = next(p for p in summary["programs"] if (p["mesh"], p["program"]) == ("2x4", "decode"))
    assert decode["cache_bytes_per_device"] == 384  # two rows, one on each half of `data`
    assert (decode["batch"], decode["tokens"], decode["cache"]) == (2, 1, 16)


def test_verify_says_that_all_is_well(bundle_command: Callable[..., Result], tiny: Path):
    # Its programs are none: they cannot be compiled.
    status, out, err = bundle_command("verify", tiny, "--no-compile")
    assert (status, err) == (0, "")
    files = [path for path in tiny.rglob("*") if path.is_file() and path.name != "manifest.json"]
    total = sum(path.stat().st_size for path in files)
    first = f"{tiny}: {len(files)} files, {format_bytes(total)}, all as recorded\n"
    assert out.startswith(first)
    status, out, _ = bundle_command("verify", tiny, "--no-compile", "--json")
    report = json.loads(out)
    assert (report["ok"], report["files"], report["bytes"]) == (True, len(files), total)


def damage_contents(bundle: Path) -> None:
    (bundle / "tokenizer/tokenizer.model").write_bytes(b"PIECES")


def damage_length(bundle: Path) -> None:
    (bundle / "tokenizer/tokenizer.model").write_bytes(b"PIECE")


@pytest.mark.parametrize("damage", [damage_contents, damage_length])
def test_verify_names_the_first_damaged_file_and_leaves_with_2(
    bundle_command: Callable[..., Result], tiny: Path, damage: Callable[[Path], None]
):
    damage(tiny)
    status, out, err = bundle_command("verify", tiny)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {tiny}/tokenizer/tokenizer.model: ")
    assert err.count("\n") == 1
    status, out, err = bundle_command("verify", tiny, "--json")
    assert status == 2
    report = json.loads(out)
    assert report["ok"] is False
    assert err == f"error: {report['error']}\n"


def test_diff_says_what_differs_and_leaves_with_1(
    bundle_command: Callable[..., Result], tiny: Path, abstract: Path
):
    assert bundle_command("diff", tiny, tiny) == (0, "no difference\n", "")
    status, out, err = bundle_command("diff", tiny, abstract)
    assert (status, err) == (1, "")
    assert "abstract changed from false to true\n" in out
    assert "file tokenizer/tokenizer.model removed\n" in out
    status, out, _ = bundle_command("diff", tiny, abstract, "--json")
    assert status == 1
    report = json.loads(out)
    assert report["same"] is False
    assert "abstract changed from false to true" in report["differences"]
    assert json.loads(bundle_command("diff", tiny, tiny, "--json")[1])["same"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: Missing command; see gemma3-bundle --help\n"),
        (["frob"], "error: No such command 'frob'; see gemma3-bundle --help\n"),
        (["verify"], "error: Missing argument 'BUNDLE'; see gemma3-bundle verify --help\n"),
        # How click writes what it did not know differs between its versions.
        (["verify", "x", "--qqq"], "; see gemma3-bundle verify --help\n"),
        (["inspect", "no\nbundle"], "error: no\\nbundle: expected the folder of a bundle, got no"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    bundle_command: Callable[..., Result], arguments: list[str], message: str
):
    status, out, err = bundle_command(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "ending"),
    [
        ("--jsno", "; did you mean --json? See gemma3-bundle verify --help"),
        ("--plugn", "; did you mean --plugin or --run? See gemma3-bundle verify --help"),
        ("--qqq", "; see gemma3-bundle verify --help"),
    ],
)
def test_a_misspelt_flag_is_refused_with_what_it_may_mean(
    bundle_command: Callable[..., Result], tiny: Path, flag: str, ending: str
):
    # Of whatever version, click tells what is alike; the words are of this project.
    status, out, err = bundle_command("verify", tiny, flag)
    assert (status, out) == (2, "")
    assert err.startswith("error: No such option")
    assert err.endswith(f"{ending}\n")
    assert err.count("\n") == 1


def test_help_and_version_leave_with_0(bundle_command: Callable[..., Result]):
    status, out, _ = bundle_command("--help")
    assert status == 0
    assert "inspect" in out
    assert "verify" in out
    status, out, _ = bundle_command("--version")
    assert status == 0
    assert out.startswith("gemma3-bundle, version ")


def leave_with(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit status and stderr of a command that raises `error`."""

    @click.command()
    def failing() -> None:
        raise error

    argv, sys.argv = sys.argv, ["failing"]
    try:
        with pytest.raises(SystemExit) as left:
            run_command(failing)
    finally:
        sys.argv = argv
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("no such mesh"), 2, "error: no such mesh\n"),
        (ArtifactError("file a\nb\x1b[2J"), 2, "error: file a\\nb\\x1b[2J\n"),
        (click.BadParameter("3x is no mesh"), 2, "error: Invalid value: 3x is no mesh"),
        (click.FileError("f", "gone"), 2, "error: Could not open file 'f': gone\n"),
        (PermissionError(13, "Permission denied", "f"), 2, "error: f: permission denied; make"),
        (KeyboardInterrupt(), 1, "interrupted\n"),
    ],
)
def test_what_a_command_raises_decides_status_and_message(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
):
    left, err = leave_with(error, capsys)
    assert left == status
    assert message in err


def test_an_argument_is_a_flag_on_a_command_line():
    names = argument("top_k"), argument("images=()", "--images 0")
    error = ArtifactError(f"{names[0]}: expected 1, got --x; pass {names[1]}")
    assert str(error) == "top_k: expected 1, got --x; pass images=()"
    assert error.for_command == "--top-k: expected 1, got --x; pass --images 0"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (ArtifactError, str(error))
    assert again.for_command == error.for_command


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    @click.command()
    def failing() -> None:
        raise KeyError("ours")

    monkeypatch.setattr(sys, "argv", ["failing"])
    with pytest.raises(KeyError, match="ours"):
        run_command(failing)


def test_closed_output_is_not_an_error_message(tiny: Path):
    code = "from gemma3_export.runtime.commands.bundle import main; main()"
    command = [sys.executable, "-c", code, "inspect", str(tiny), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 * 2**29, "1.5 GiB"),
        (2**52, "4096.0 TiB"),
    ],
)
def test_bytes_are_shown_in_the_largest_unit(count: int, text: str):
    assert format_bytes(count) == text


def test_an_abstract_bundle_is_whole_and_has_nothing_to_run(
    bundle_command: Callable[..., Result], abstract: Path, tmp_path: Path
):
    status, out, err = bundle_command("verify", abstract)
    assert (status, err) == (0, "")
    assert "programs without weights do not run" in out
    page = tmp_path / "report.html"
    status, _, err = bundle_command("report", abstract, "-o", page)
    assert (status, err) == (0, "")
    assert "not stored (abstract bundle)" in page.read_text()
