"""The C++ side of the table of sampling inputs: `sampling_table.h` of the native host.

`python -m gemma3_export.artifacts.sampling_header` prints what is checked in.
"""

from __future__ import annotations

import json

from .convention import SAMPLING, SamplingInput

_C_TYPES = {"float32": "float", "int32": "int32_t", "uint32": "uint32_t"}
_HEAD = """\
// The sampling inputs of programs (artifacts/convention.py). Written by
// `python -m gemma3_export.artifacts.sampling_header`; change the table there.
//
// X(name, C type, dtype, neutral, least, most, least itself excluded, least fed, most fed,
//   range in words, flag, metavar, help, means something at temperature 0)
#ifndef GEMMA3_SRC_SAMPLING_TABLE_H_
#define GEMMA3_SRC_SAMPLING_TABLE_H_

#define GEMMA3_SAMPLING(X) \\
"""
_END = """
#endif  // GEMMA3_SRC_SAMPLING_TABLE_H_
"""


def sampling_header() -> str:
    """The text of the header."""
    return _HEAD + " \\\n".join(map(_entry, SAMPLING)) + "\n" + _END


def _entry(each: SamplingInput) -> str:
    values = (
        each.name, _C_TYPES[each.dtype], json.dumps(each.dtype),
        *(repr(float(value)) for value in (each.neutral, each.least, each.most)),
        _bool(each.above_least), *(repr(float(value)) for value in each.fed),
        json.dumps(each.expected),
        json.dumps(each.flag), json.dumps(each.metavar),
        json.dumps(each.help),
        _bool(each.alone),
    )  # fmt: skip
    return f"  X({', '.join(values)})"


def _bool(value: bool) -> str:
    return "true" if value else "false"


if __name__ == "__main__":
    print(sampling_header(), end="")
