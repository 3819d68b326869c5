"""The report: what it says, and what a browser shows of it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.inspect.report_page import report_page
from gemma3_export.artifacts.inspect.report_svg import COLOURS, placement
from gemma3_export.artifacts.manifest import Axis, Mesh, ProgramName
from PIL import Image, ImageChops

from .toy_bundle import Toy, make_toy_bundle

SAMPLE = Path(__file__).parents[1] / "artifacts" / "data" / "v2-sample"
BENCH = {
    "mesh": "1x1", "platform": "cpu", "batch": 1, "prefill": 512, "decode": 128, "load_s": 1.5,
    "prefill_tok_s": 854.25, "decode_tok_s": 27.9, "first_token_s": 8.8, "peak_rss_bytes": 1 << 30,
}  # fmt: skip
EXPORT = {
    "seconds": 14.5,
    "programs": [
        {
            "mesh": "1x1", "platform": "cpu", "program": "decode", "batch": 1, "tokens": 1,
            "cache": 64, "seconds": 0.731,
        }
    ],
}  # fmt: skip
Report = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def page(toy: Path) -> str:
    return report_page(Bundle.open(toy), EXPORT, [BENCH])


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Report:
    """`gemma3-bundle report` in this process: exit status, stdout, stderr."""
    from gemma3_export.runtime.commands.bundle import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gemma3-bundle", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


class Balanced(HTMLParser):
    """Fails on tags that are not closed in order; collects what a reader sees."""

    VOID = frozenset({"meta", "rect", "line", "polyline"})

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_everything(page: str):
    seen = Balanced(page)
    for text in (
        "Contents", "Memory per device", "2x4 on cpu, 8 devices", "1x1 on cpu, 1 device",
        "KV cache against context", "Weights on the devices of 2x4", "Axes data=2, model=4",
        "prefill b4 t16 c64", "0.73 s", "The whole export took 14.5 s", "854.2 tok/s",
        "Provenance", "SHA-256 of manifest.json", "weights/model.safetensors",
    ):  # fmt: skip
        assert text in seen.text
    assert "not recorded" in seen.text  # the programs that the export's output does not have


def test_charts_have_marks_in_the_colours_of_their_keys(page: str):
    """In a browser: below, in `make soak`."""
    for colour in COLOURS[:2]:  # weights and cache, rings and uniform
        assert re.search(rf'<rect [^>]*width="[1-9][^>]*fill="{colour}"><title>', page), colour
        assert re.search(rf'<polyline points="[0-9][^>]*stroke="{colour}"', page), colour
    for text in ("Memory per device", "prefill b4 t16 c64", "0,4"):
        assert f">{text}<" in page


def test_the_page_needs_nothing_else(page: str):
    assert not Balanced(page).tags & {"script", "link", "img", "iframe", "object", "use"}
    assert not re.search(r"(?i)\b(src|href|on\w+|url)\s*[=(]", page)
    assert "default-src 'none'" in page


def test_without_figures_from_elsewhere_the_page_says_how_to_add_them():
    text = Balanced(report_page(Bundle.open(SAMPLE), None, [])).text
    assert "gemma3-export --json" in text
    assert "gemma3-bench --json" in text
    assert "170 66 143 138 309" in text  # a golden


def test_names_from_the_bundle_are_text_and_nothing_else(tmp_path: Path):
    bundle = Path(shutil.copytree(SAMPLE, tmp_path / "bundle"))
    evil = "<script>alert(1)</script><b>'\"&"
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["model"]["name"] = manifest["model"]["architecture"] = evil
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    page = report_page(Bundle.open(bundle), None, [])
    assert not Balanced(page).tags & {"script", "b"}
    assert html.escape(evil) in page


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (((), ()), ["0-7"]),
        ((("model",), ()), ["0,4", "1,5", "2,6", "3,7"]),
        (((), ("data",)), ["0-3", "4-7"]),
        ((("data",), ("model",)), ["0", "1", "2", "3", "4", "5", "6", "7"]),
        ((("model", "data"), ()), ["0", "4", "1", "5", "2", "6", "3", "7"]),
    ],
)
def test_each_part_of_a_weight_is_labelled_with_the_devices_that_hold_it(spec, expected: list[str]):
    mesh = Mesh("2x4", (Axis("data", 2), Axis("model", 4)))
    assert re.findall(r">([0-9,-]+)</text>", placement((64, 32), spec, mesh)) == expected


def test_a_mesh_of_many_devices_is_told_in_words():
    mesh = Mesh("1x256", (Axis("data", 1), Axis("model", 256)))
    assert placement((512, 32), (("model",), ()), mesh) == "<span>256 x 1 parts</span>"


def test_the_command_writes_the_page(report: Report, tmp_path: Path):
    for name, value in (("bench.json", BENCH), ("export.json", EXPORT)):
        (tmp_path / name).write_text(json.dumps(value))
    out = tmp_path / "report.html"
    status, said, err = report(
        SAMPLE, "-o", out, "--bench", tmp_path / "bench.json", "--export", tmp_path / "export.json"
    )
    assert (status, err) == (0, "")
    assert said == f"{out}: {out.stat().st_size} bytes\n"
    assert out.read_text() == report_page(Bundle.open(SAMPLE), EXPORT, [BENCH])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bench.json", "export.json", "report.html",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("--bench", None, "expected a file that gemma3-bench --json printed, got"),
        ("--bench", "[]", "expected the object that gemma3-bench --json printed, got another"),
        ("--bench", "{}", "expected prefill_tok_s as a number"),
        ("--bench", "x", "expected JSON, got text that is not"),
        ("--export", '{"programs": 3}', "expected programs as a list of objects"),
        ("--export", '{"programs": [{}]}', "expected programs[0].seconds as a number"),
        ("--export", '{"programs": [{"seconds": 1, "mesh": []}]}', "plain values in programs[0]"),
        ("--export", '{"programs": []}', "expected seconds as a number"),
    ],
)
def test_files_of_another_kind_are_refused(
    report: Report, tmp_path: Path, flag: str, text: str | None, message: str
):
    file = tmp_path / "given.json"
    if text is not None:
        file.write_text(text)
    status, out, err = report(SAMPLE, "-o", tmp_path / "r.html", flag, file)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_a_page_that_cannot_be_written_is_one_line(report: Report, tmp_path: Path):
    status, _, err = report(SAMPLE, "-o", tmp_path / "none" / "r.html")
    assert status == 2
    assert "-o: cannot write" in err


def photograph(page: str, folder: Path) -> Image.Image:
    """What headless Chromium shows of a page, top to bottom."""
    source, picture = folder / "page.html", folder / "page.png"
    source.write_text(page)
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser, "this test needs Chromium: apt-get install chromium"
    subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--disable-dev-shm-usage",
            f"--user-data-dir={folder}/profile", "--window-size=1000,3600",
            f"--screenshot={picture}", source.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(picture) as image:
        return image.convert("RGB")


@pytest.mark.soak
def test_a_browser_shows_the_texts_and_charts(page: str, tmp_path: Path):
    shown = photograph(page, tmp_path)
    assert shown.size == (1000, 3600)
    histogram = {colour: count for count, colour in shown.getcolors(1 << 24) or ()}
    assert histogram[(255, 255, 255)] < 0.97 * 3_600_000
    for colour in COLOURS[:2]:  # weights and cache, rings and uniform
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert histogram.get((red, green, blue), 0) > 1000, colour
    # A text is visible when taking it away changes what is seen.
    for text in ("Memory per device", "prefill b4 t16 c64", "0,4"):
        assert f">{text}<" in page
        without = photograph(page.replace(f">{text}<", "><"), tmp_path)
        assert ImageChops.difference(shown, without).getbbox() is not None, text


def test_a_bundle_without_cache_says_so(tmp_path: Path):
    toy = Toy(batch=(1,), prefill=(4,), caches=(), programs=(ProgramName.EMBED,))
    bundle = Bundle.open(make_toy_bundle(tmp_path / "toy", toy))
    text = Balanced(report_page(bundle, None, [])).text
    assert "The programs of this bundle keep no cache." in text
    assert "embed b1 t4" in text
