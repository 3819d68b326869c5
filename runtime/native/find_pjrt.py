"""Print the folder of pjrt_c_api.h in this Python's site-packages; exit 1 when there is none."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

# A plugin's own header first: the older one works with newer plugins too.
PLACES = (
    "xla_plugins/xla_cpu_pjrt/include",
    "tensorflow/include/tensorflow/compiler/xla/pjrt/c",
    "tensorflow/include/xla/pjrt/c",
)


def main() -> None:
    """Look in both kinds of site-packages."""
    for scheme in ("purelib", "platlib"):
        for place in PLACES:
            folder = Path(sysconfig.get_path(scheme)) / place
            if (folder / "pjrt_c_api.h").is_file():
                print(folder)
                return
    sys.exit(
        "error: no installed wheel brings pjrt_c_api.h: expected xla_cpu_pjrt or tensorflow; "
        "run: pip install xla_cpu_pjrt"
    )


if __name__ == "__main__":
    main()
