"""The command `gemma3-bundle`: look at a bundle and check that it is whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from .bundle import Bundle
from .codec import format_json
from .errors import ArtifactError, run_command
from .summary import format_bytes, print_summary, summarize

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(no_args_is_help=False)  # it would be an error of many lines
@click.version_option(package_name="gemma3-export")
def cli() -> None:
    """Inspect and verify bundles made by gemma3-export."""


@cli.command()
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


@cli.command()
@bundle_argument
@json_option
def verify(bundle: Path, as_json: bool) -> None:
    """Check every file of BUNDLE: its size, its layout and its SHA-256.

    Leaves with status 2 and the name of the first damaged file.
    """
    try:
        opened = Bundle.open(bundle)
        _verify_digests(opened)
    except ArtifactError as error:
        if as_json:
            print(format_json({"ok": False, "error": str(error)}), end="")
        raise
    count = len(opened.manifest.files)
    total = sum(record.bytes for record in opened.manifest.files)
    if as_json:
        print(format_json({"ok": True, "files": count, "bytes": total}), end="")
    else:
        print(f"{bundle}: {count} files, {format_bytes(total)}, all as recorded")


def _verify_digests(bundle: Bundle) -> None:
    """Compare all digests; on a terminal a bar shows how far it is."""
    console = Console(stderr=True, markup=False)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("", total=sum(record.bytes for record in bundle.manifest.files))
        for record in bundle.manifest.files:
            bar.update(task, description=record.path)
            bundle.verify_digest(record.path)
            bar.advance(task, record.bytes)


def main() -> NoReturn:
    """Entry point of `gemma3-bundle`."""
    run_command(cli)
