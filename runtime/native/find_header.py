"""Print the folder of a header that an installed wheel brings: `find_header.py pjrt_c_api.h`.

Exits with status 1 and one line when there is none.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

PLACES = {
    # A plugin's own header first: the older one works with newer plugins too.
    "pjrt_c_api.h": (
        "xla_plugins/xla_cpu_pjrt/include",
        "tensorflow/include/tensorflow/compiler/xla/pjrt/c",
        "tensorflow/include/xla/pjrt/c",
    ),
    "xla/ffi/api/ffi.h": ("jaxlib/include",),
}
WHEELS = {"pjrt_c_api.h": "xla_cpu_pjrt or tensorflow", "xla/ffi/api/ffi.h": "jaxlib"}


def main(header: str) -> None:
    """Look in both kinds of site-packages, and where else Python imports from: pip builds wheels
    with packages that are in neither."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path]
    for folder in filter(None, folders):
        for place in PLACES[header]:
            found = Path(folder) / place
            if (found / header).is_file():
                print(found)
                return
    wheels = WHEELS[header]
    sys.exit(
        f"error: no installed wheel brings {header}: expected {wheels}; "
        f"run: pip install {wheels.split()[0]}"
    )


if __name__ == "__main__":
    main(sys.argv[1])
