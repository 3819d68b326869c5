"""The command `gemma3-bundle`: look at a bundle, check it, sign it, compare and report."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ...artifacts.bundle import Bundle
from ...artifacts.codec import format_json
from ...artifacts.errors import UsageError, run_command
from ...artifacts.examples import examples
from ...artifacts.inspect.diff import diff_bundles
from ...artifacts.inspect.report_page import report_page
from ...artifacts.inspect.summary import print_summary, summarize
from ...artifacts.signing import require_signature, sign
from ..checks.verify import Verification, verification_data, verification_lines, verify_bundle
from .options import HELP

FC = TypeVar("FC", bound=Callable[..., object])
bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def file_option(flag: str, meaning: str) -> Callable[[FC], FC]:
    """An option that names a file."""
    return click.option(flag, type=click.Path(path_type=Path), metavar="FILE", help=meaning)


@click.group(
    no_args_is_help=False,  # it would be an error of many lines
    context_settings=HELP,
    epilog=examples("gemma3-bundle inspect gemma3-270m", "gemma3-bundle verify gemma3-270m --run"),
)
@click.version_option(package_name="gemma3-export")
def cli() -> None:
    """Inspect, verify, sign, compare and report bundles made by gemma3-export."""


@cli.command(
    epilog=examples("gemma3-bundle inspect gemma3-270m", "gemma3-bundle inspect gemma3-270m --json")
)
@bundle_argument
@json_option
def inspect(bundle: Path, as_json: bool) -> None:
    """Show meshes, programs, KV cache, weights and tokenizer of BUNDLE.

    The manifest, file sizes and weight headers are checked on the way; contents are not.
    """
    summary = summarize(Bundle.open(bundle))
    if as_json:
        print(format_json(summary), end="")
    else:
        # Into a pipe rich would squeeze the tables into 80 columns.
        width = None if sys.stdout.isatty() else 120
        console = Console(markup=False, emoji=False, highlight=False, width=width)
        print_summary(console, summary)


@cli.command(
    epilog=examples(
        "gemma3-bundle verify gemma3-270m --mesh 1x1 --run",
        "gemma3-bundle verify gemma3-270m --key me.pem --no-compile",
    )
)
@bundle_argument
@file_option("--key", "Demand a signature by this public key (PEM).")
@file_option("--certificate", "Demand one by a certificate that leads to these roots (PEM).")
@file_option("--plugin", "Ask this PJRT plugin, not jaxlib, which StableHLO it reads.")
@click.option("--mesh", metavar="2x4", help="Ask for this mesh only, and run goldens on it.")
@click.option("--platform", metavar="cpu", help="Ask for this platform only.")
@click.option("--run", is_flag=True, help="Run the bundle's goldens and compare tokens.")
@click.option(
    "--no-compile",
    is_flag=True,
    help="Do not compile the largest programs: memory is then told without temporaries.",
)
@json_option
def verify(
    bundle: Path, key: Path | None, certificate: Path | None, plugin: Path | None,
    mesh: str | None, platform: str | None, run: bool, no_compile: bool, as_json: bool,
) -> None:  # fmt: skip
    """Say whether BUNDLE is whole, who signed it, and whether it runs on this machine.

    Every file is compared with its SHA-256; versions, devices and memory with what is here.
    Exits with status 2, naming the first damaged file or the reason, when something does not
    hold.
    """
    if key is not None and certificate is not None:
        raise UsageError("--key and --certificate exclude each other: pass what the signer used")
    found = None
    try:
        if (trusted := key or certificate) is not None:
            require_signature(bundle, trusted)
        opened = Bundle.open(bundle)
        _verify_digests(opened)
        found = verify_bundle(opened, trusted, plugin, mesh, platform, run, not no_compile)
        found.require()
    except UsageError as error:
        if as_json:
            data = {} if found is None else verification_data(found)
            print(format_json({**data, "ok": False, "error": error.for_command}), end="")
        elif found is not None:
            _print(found)
        raise
    if as_json:
        print(format_json(verification_data(found)), end="")
    else:
        _print(found)


@cli.command(
    name="sign",
    epilog=examples(
        "gemma3-bundle sign gemma3-270m --key me.key",
        "gemma3-bundle sign gemma3-270m --key me.key --certificate me.crt",
    ),
)
@bundle_argument
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Private key (PEM, elliptic curve, not encrypted).",
)  # fmt: skip
@file_option("--certificate", "The signer's certificate (PEM), to be verified with its root.")
@click.option(
    "--chain", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Certificates between the signer's and the root. Repeatable.",
)  # fmt: skip
def sign_command(
    bundle: Path, key: Path, certificate: Path | None, chain: tuple[Path, ...]
) -> None:
    """Sign BUNDLE with a key on this machine: writes model.sig beside its manifest.

    Whoever has the public key, or the root of the certificate, checks with `gemma3-bundle verify
    --key` or `--certificate`, and with `gemma3-run --require-signature`.
    """
    if chain and certificate is None:
        raise UsageError("--chain needs --certificate: it leads from it to the root")
    opened = Bundle.open(bundle)
    path = sign(opened, key, certificate, chain)
    print(f"{path}: signature of {len(opened.manifest.files) + 1} files")


@cli.command(
    epilog=examples(
        "gemma3-bundle diff gemma3-270m gemma3-270m-int8",
        "gemma3-bundle diff yesterday today --json",
    )
)
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@json_option
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Say in words how bundle SECOND differs from FIRST.

    Exits with status 1 when they differ, as diff does.
    """
    found = diff_bundles(Bundle.open(first), Bundle.open(second))
    if as_json:
        print(format_json({"same": not found, "differences": found}), end="")
    else:
        print("\n".join(found) or "no difference")
    if found:
        click.get_current_context().exit(1)


@cli.command(
    epilog=examples(
        "gemma3-bundle report gemma3-270m -o report.html",
        "gemma3-bundle report gemma3-270m -o report.html --bench bench.json",
    )
)
@bundle_argument
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Page to write, replaced if it is there.",
)  # fmt: skip
@file_option("--export", "What gemma3-export --json printed: lowering seconds.")
@click.option(
    "--bench", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="What gemma3-bench --json printed. Repeatable.",
)  # fmt: skip
def report(bundle: Path, output: Path, export: Path | None, bench: tuple[Path, ...]) -> None:
    """Write what is in BUNDLE as one page of HTML, with pictures and without scripts."""
    from .report_inputs import read_benchmark, read_export, write_page

    opened = Bundle.open(bundle)
    exported = None if export is None else read_export(export)
    page = report_page(opened, exported, [read_benchmark(path) for path in bench])
    write_page(output, page)
    print(f"{output}: {len(page.encode())} bytes")


def _print(found: Verification) -> None:
    print("\n".join(verification_lines(found)))


def _verify_digests(bundle: Bundle) -> None:
    """Compare all digests; on a terminal a bar shows how far it is."""
    console = Console(stderr=True, markup=False)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    # rich before 14.3 ends a bar that is disabled with an empty line.
    with bar if console.is_terminal else contextlib.nullcontext():
        task = bar.add_task("", total=sum(record.bytes for record in bundle.manifest.files))
        for record in bundle.manifest.files:
            bar.update(task, description=record.path)
            bundle.verify_digest(record.path)
            bar.advance(task, record.bytes)


def main() -> NoReturn:
    """Entry point of `gemma3-bundle`."""
    run_command(cli)
