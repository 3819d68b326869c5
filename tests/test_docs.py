"""The pages: links lead somewhere, commands parse, Python runs, and names are those of the code."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from gemma3_export.artifacts.convention import SAMPLING
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.export import arguments, export
from gemma3_export.export.cli import command as export_command
from gemma3_export.runtime.api.model import Model, load
from gemma3_export.runtime.commands.bench import command as bench_command
from gemma3_export.runtime.commands.bundle import cli as bundle_command
from gemma3_export.runtime.commands.run import command as run_command

from .goldens.tiny import write_checkpoint
from .runtime.toy_bundle import Toy, make_toy_bundle

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "artifacts", "export", "model", "runtime", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.md"))])
OURS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
COMMANDS: dict[str, click.Command] = {
    "gemma3-export": export_command, "gemma3-run": run_command,
    "gemma3-bundle": bundle_command, "gemma3-bench": bench_command,
}  # fmt: skip
COMMAND = re.compile(r"(?:\S*/)?(gemma3-(?:run|export|bundle|bench|host))$")


def blocks(page: Path, language: str | None = None) -> list[str]:
    """The code blocks of a page, or those of a language; "" is none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [code for name, code in found if language in (None, name)]


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def spans(page: Path) -> list[str]:
    """What stands between backticks in prose, on one line."""
    return [" ".join(s.split()) for s in re.findall(r"`([^`]+)`", prose(page))]


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def headings(page: Path) -> set[str]:
    """The anchors that a Markdown viewer gives to headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", t.strip().lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_to_files_and_headings(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in headings(file), target


def test_the_contents_list_has_every_page():
    text = (ROOT / "docs" / "README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"^\| \[\w+\.md\]\((\w+\.md)\)", text, re.M))
    assert len(pages) == 8


def command_lines(text: str) -> Iterator[list[str]]:
    """The command lines of a code block, each as words, `gemma3-...` first."""
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:
            continue  # what a command printed
        while "&&" in words:
            words = words[words.index("&&") + 1 :]
        if words and (match := COMMAND.match(words[0])):
            yield [match[1], *words[1:]]


def host_flags() -> dict[str, bool]:
    """The flags of gemma3-host, and whether each takes a value."""
    text = (ROOT / "runtime" / "native" / "host" / "options.cc").read_text()
    found = re.findall(r'^\s+(toggle|list|text|whole|number)\(\s*"(--[a-z-]+)"', text, re.M)
    sampling = {each.flag: True for each in SAMPLING}
    return {flag: kind != "toggle" for kind, flag in found} | sampling


def parse(words: list[str]) -> None:
    """Parse a command line as its command does, without running it."""
    if words[0] == "gemma3-host":
        known, rest = host_flags(), words[1:]
        for word in rest:
            assert not word.startswith("--") or word.partition("=")[0] in known, words
        for word, value in zip(rest, [*rest[1:], "--"], strict=True):
            assert not known.get(word) or not value.startswith("--"), words
        return
    command, arguments = COMMANDS[words[0]], list(words[1:])
    if isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    command.make_context(words[0], arguments)


@pytest.mark.parametrize("page", OURS, ids=names(OURS))
def test_command_lines_parse(page: Path):
    for words in (line for block in blocks(page) for line in command_lines(block)):
        parse(words)


def test_command_lines_are_found_and_wrong_ones_refused():
    found = [line[0] for page in OURS for block in blocks(page) for line in command_lines(block)]
    assert set(found) == {*COMMANDS, "gemma3-host"} - {"gemma3-bench"}
    assert len(found) > 20
    assert {"--prompt", "--check", "--plugin", "--no-cache"} <= set(host_flags())
    for wrong in ("gemma3-run b --promt x", "gemma3-bundle verify b --kye k", "gemma3-export --x"):
        with pytest.raises(click.UsageError):
            parse(shlex.split(wrong))
    for wrong in ("gemma3-host b --promt x", "gemma3-host b --prompt --check"):
        with pytest.raises(AssertionError):
            parse(shlex.split(wrong))


@pytest.mark.parametrize("name", [*COMMANDS, *bundle_command.commands, "gemma3-host"])
def test_help_ends_with_command_lines_that_parse(name: str):
    if name == "gemma3-host":
        source = (ROOT / "runtime" / "native" / "host" / "options.cc").read_text()
        text = ast.literal_eval("(" + source.split("kExamples =")[1].split(";\n")[0] + ")")
    else:
        command = COMMANDS.get(name) or bundle_command.commands[name]
        text = command.get_help(click.Context(command))
    _, ending = text.split("\nExamples:\n" if name == "gemma3-host" else "\n  Examples:\n")
    lines = ending.rstrip("\n").splitlines()
    assert len(lines) in (2, 3)
    for line in lines:
        assert len(line) < 80
        ((words),) = command_lines(line.strip().rpartition("| ")[2])
        parse(words)


def flags_of(command: click.Command) -> set[str]:
    found = {flag for option in command.params for flag in option.opts} | {"--help"}
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return found.union(*map(flags_of, inner))


@pytest.mark.parametrize("page", OURS, ids=names(OURS))
def test_flags_named_with_a_command_are_its_flags(page: Path):
    for span in spans(page):
        match = COMMAND.match(span.split(" ")[0])
        if match:
            known = COMMANDS.get(match[1])
            flags = set(host_flags()) if known is None else flags_of(known)
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)) <= flags, span


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the paths in the pages stand for."""
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "bundle": Toy(batch=(1, 2), prefill=(4, 16)),
        "classifier": Toy(batch=(1,), prefill=(16,), programs=(ProgramName.CLASSIFY,)),
        "embedder": Toy(batch=(1, 2), prefill=(16,), programs=(ProgramName.EMBED,)),
    }
    for name, toy in made.items():
        make_toy_bundle(folder / name, toy)
    write_checkpoint("default", folder / "checkpoint")
    return {name: folder / name for name in (*made, "checkpoint")}


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_blocks_run_in_order(page: str, places: dict[str, Path], tmp_path: Path):
    scope: dict[str, object] = {}
    codes = blocks(ROOT / page, "python")
    assert codes
    for number, code in enumerate(codes, 1):
        arguments = f"{str(places['checkpoint'])!r}, {str(tmp_path / str(number))!r}"
        code = re.sub(r'"path/to/checkpoint",\s*"\w+"', arguments, code)  # what it writes is new
        code = re.sub(r'"(bundle|classifier|embedder)"', lambda m: repr(str(places[m[1]])), code)
        assert "path/to" not in code
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code, f"{page}, block {number}", "exec"), scope)
        assert said.getvalue(), f"block {number} prints nothing"
        for line in re.findall(r"print\(error\)  # (.*)", code):
            assert line in said.getvalue().splitlines()


def test_the_c_quick_start_is_the_example_that_is_compiled():
    example = (ROOT / "runtime" / "native" / "examples" / "text.c").read_text()
    lines = [line.strip() for line in example.splitlines()]
    found = blocks(ROOT / "README.md", "c")
    assert len(found) == 1
    at = 0
    for part in found[0].split("/* ... */\n"):
        wanted = [line.strip() for line in part.splitlines()]
        starts = range(at, len(lines) - len(wanted) + 1)
        at = next((i for i in starts if lines[i : i + len(wanted)] == wanted), -1)
        assert at >= 0, part
        at += len(wanted)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


@pytest.mark.parametrize("page", OURS, ids=names(OURS))
def test_prose_has_lines_of_at_most_100(page: Path):
    lines = [line for line in prose(page).splitlines() if not line.startswith(("|", "!["))]
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_targets_of_make_are_in_the_makefile(page: Path):
    targets = set(re.findall(r"^([a-z][\w.-]*):", (ROOT / "Makefile").read_text(), re.M))
    assert {"demo", "native", "llama.cpp"} <= targets
    lines = [*spans(page), *(line for block in blocks(page) for line in block.splitlines())]
    named = [m[1] for line in lines if (m := re.match(r"(?:\$ )?make ([a-z][\w.-]*)", line))]
    assert set(named) <= targets


@pytest.mark.parametrize("page", OURS, ids=names(OURS))
def test_files_named_on_a_page_are_there(page: Path):
    for span in spans(page):
        if re.fullmatch(
            r"(gemma3_export|model|export|artifacts|runtime|tests|docs)/[\w./*-]*", span
        ):
            assert list(ROOT.glob(span.rstrip("/"))), span


def test_files_in_the_table_of_the_model_are_there():
    rows = re.findall(r"^\| (`\w+(?:\.py|/)`.*)$", (ROOT / "model" / "README.md").read_text(), re.M)
    named = re.findall(r"`(\w+\.py|\w+/)`", " ".join(rows))
    files = list((ROOT / "model").rglob("*.py"))
    folders = {f"{path.parent.name}/" for path in files} - {"model/"}
    assert set(named) == {path.name for path in files} - {"__init__.py"} | folders


def test_walks_have_as_many_files_as_they_say():
    text = (ROOT / "docs" / "design.md").read_text()
    walks = re.findall(r"^### .*: (\d+) files\n\n\|.*\n\|---.*\n((?:\|.*\n)+)", text, re.M)
    assert len(walks) == 3
    for count, table in walks:
        files = re.findall(r"^\| `([^`]+)` \|", table, re.M)
        assert len(set(files)) == len(files) == int(count)
        assert all((ROOT / name).is_file() for name in files)


def _shown(part: ast.expr) -> str:
    """A part of a message as a command shows it; of what is put in, the flags of gemma3-export."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    name = part.value.id if isinstance(part, ast.FormattedValue) and isinstance(
        part.value, ast.Name
    ) else ""  # fmt: skip
    flag = getattr(arguments, name, None)
    return UsageError(flag).for_command if isinstance(flag, str) else "\0"


def literals() -> list[str]:
    """What stands in string literals of the code, each whole however it is broken into lines."""
    found = [(ROOT / "Makefile").read_text()]
    for package in ("artifacts", "export", "gemma3_export", "model", "runtime"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(map(_shown, node.values)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    for path in (ROOT / "runtime" / "native").rglob("*.cc"):
        joined = re.sub(r'"\s*\n\s*"', "", path.read_text())
        found += re.findall(r'"((?:[^"\\\n]|\\.)*)"', joined)
    return found


def test_errors_on_the_page_are_said_by_the_code():
    """Not those of the system: the loader's."""
    everything = "\n".join(literals())
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    said = [row for row in rows if not row.startswith("error while loading shared libraries")]
    assert len(said) == len(rows) - 1 > 20
    for part in (part for row in said for part in row.split("...")):
        assert part.strip() in everything, part


ARGUMENTS = {
    "Loading": load,
    "Generating": Model._request,
    "Scoring": Model.score,
    "Sessions": Model.session,
    "Exporting": export,
}


@pytest.mark.parametrize("section", ARGUMENTS)
def test_tables_of_arguments_have_every_argument_in_order(section: str):
    text = (ROOT / "docs" / "python.md").read_text()
    part = re.split(r"^## ", text.partition(f"\n## {section}\n")[2], maxsplit=1, flags=re.M)[0]
    table = re.search(r"^\| (?:argument|option) \|.*\n\|---.*\n((?:\|.*\n)+)", part, re.M)
    assert table is not None
    named = re.findall(r"^\| `(\w+)` \|", table[1], re.M)
    parameters = list(inspect.signature(ARGUMENTS[section]).parameters)
    if section == "Generating":  # by name, before what may be given instead of them
        parameters.remove("drawing")
        at = parameters.index("sampling")
        parameters[at:at] = [each.name for each in SAMPLING]
    assert named == [name for name in parameters if name not in ("self", "prompt")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_stands_on_a_page(command: str):
    told = {flag for page in OURS for flag in re.findall(r"--[a-z][a-z-]*", page.read_text())}
    flags = {flag for flag in flags_of(COMMANDS[command]) if flag.startswith("--")}
    assert flags - told - {"--output"} == set()  # which is -o there


def test_defaults_of_gemma3_export_are_those_of_the_page():
    text = (ROOT / "docs" / "export.md").read_text().partition("\n`gemma3-export`:\n")[2]
    cells = dict(
        re.findall(r"^\| `(--[a-z-]+)` \| ([^|]*) \|", text.partition("`gemma3-run`")[0], re.M)
    )
    shown = {
        option.opts[0]: option.default[0] if option.multiple else option.default  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]
        for option in export_command.params
        if isinstance(option, click.Option) and option.show_default
    }
    assert {"--mesh", "--batch", "--prefill", "--cache", "--generate", "--dtype"} <= set(
        shown
    ) & set(cells)
    assert {flag: cells[flag] for flag in shown if flag in cells} == {
        flag: str(default) for flag, default in shown.items() if flag in cells
    }
