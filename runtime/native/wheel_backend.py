"""The build backend: setuptools, and in a wheel what CMake builds, as gemma3_export/_native.

Editable installations and sdists are setuptools' alone and need no compiler. Where CMake cannot
build, for want of a compiler or headers, the wheel is of Python alone and says so: gemma3-host and
`gemma3-bundle verify` do. `-C native=required` fails instead, `-C native=none` does not try, and
`-C build-dir=DIR` keeps what was compiled.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401 - hooks
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

SOURCE = Path(__file__).resolve().parent
ROOT = SOURCE.parents[1]
TREE = "gemma3_export/_native"
"""Where it is in the wheel; artifacts/native.py looks there."""
# CMake, and the wheels that bring the headers of PJRT and of XLA's FFI.
NEEDED = (
    "cmake>=3.25",
    "ninja>=1.11",
    "jaxlib>=0.10",
    "xla_cpu_pjrt>=0.0.1; platform_machine == 'x86_64'",
)
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of zip: the same files give the same bytes

Settings = dict[str, str] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What setuptools asks for, and what the native part is built with."""
    needed = [] if _choice(config_settings) == "none" else [*NEEDED]
    return [*build_meta.get_requires_for_build_wheel(), *needed]


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Write a wheel with the native part, or of Python alone; gives its file name."""
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # modules that have since moved
    name = build_meta.build_wheel(wheel_directory, None, metadata_directory)
    choice = _choice(config_settings)
    if choice == "none":
        return name
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "prefix"
        build = (config_settings or {}).get("build-dir", str(Path(folder) / "build"))
        try:
            _build_native(Path(build).absolute(), prefix)
        except (OSError, subprocess.CalledProcessError) as error:
            if choice == "required":
                raise SystemExit(f"error: the native host cannot be built: {error}") from error
            print(f"warning: a wheel of Python alone, without gemma3-host: {error}")
            return name
        return _add_native(Path(wheel_directory) / name, prefix)


def _choice(settings: Settings) -> str:
    """`required`, `none`, or `tried`, which is what Linux gets unasked."""
    default = "tried" if sys.platform == "linux" else "none"
    choice = (settings or {}).get("native", default)
    if choice not in ("required", "none", "tried"):
        raise SystemExit(f"error: native: expected required, none or tried, got {choice}")
    return choice


def _build_native(build: Path, prefix: Path) -> None:
    """Compile in `build` and install into `prefix`.

    Raises OSError without CMake, CalledProcessError without a compiler or headers.
    """
    subprocess.run(
        [
            "cmake",
            "-S",
            SOURCE,
            "-B",
            build,
            "-G",
            "Ninja",
            "-DGEMMA3_NOTICES=ON",
            f"-DPython3_EXECUTABLE={sys.executable}",
        ],
        check=True,
    )
    subprocess.run(["cmake", "--build", build], check=True)
    subprocess.run(["cmake", "--install", build, "--prefix", prefix, "--strip"], check=True)


def _add_native(wheel: Path, prefix: Path) -> str:
    """Write `wheel` again with the tree, as one of this platform; gives the new file name."""
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    name = wheel.name.replace("-none-any.whl", f"-none-{platform}.whl")
    files: dict[str, tuple[bytes, int]] = {}  # content and mode
    with zipfile.ZipFile(wheel) as old:
        for info in old.infolist():
            files[info.filename] = old.read(info), info.external_attr >> 16
    (record,) = (path for path in files if path.endswith(".dist-info/RECORD"))
    del files[record]
    about = record.replace("RECORD", "WHEEL")
    text = files[about][0].decode().replace("Purelib: true", "Purelib: false")
    files[about] = text.replace("-none-any", f"-none-{platform}").encode(), files[about][1]
    for path in sorted(p for p in prefix.rglob("*") if p.is_file()):
        files[f"{TREE}/{path.relative_to(prefix)}"] = path.read_bytes(), path.stat().st_mode
    files[record] = _records(files, record).encode(), 0o644
    with zipfile.ZipFile(wheel.with_name(name), "w") as new:
        for path, (content, mode) in files.items():
            info = zipfile.ZipInfo(path, _FIRST_DAY)
            info.external_attr = mode << 16
            new.writestr(info, content, zipfile.ZIP_DEFLATED)
    wheel.unlink()
    return name


def _records(files: dict[str, tuple[bytes, int]], record: str) -> str:
    """The RECORD of a wheel: a line for each file, its own without a digest."""
    rows: list[tuple[str, str, str | int]] = []
    for path, (content, _) in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
        rows.append((path, f"sha256={digest.decode()}", len(content)))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*rows, (record, "", "")])
    return text.getvalue()
