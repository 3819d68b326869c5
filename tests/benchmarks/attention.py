"""Which form of attention is fastest, by chunk and cache: what model/lowering/table.py chooses by.

Shapes are those of the 270M. Prints milliseconds of one layer in bfloat16, medians of interleaved
repeats, cache written included; `*` marks the form that is chosen. `gemma3-export --tune` measures
the same way for one export.
"""

from __future__ import annotations

import jax
from gemma3_export.export.measure import attention_calls
from gemma3_export.export.tuning import attention_forms, shipped_form
from gemma3_export.model.config import LayerType
from gemma3_export.model.lowering.table import AttentionCase
from gemma3_export.model.lowering.target import Platform
from measure import medians

HEADS, SIZE, WINDOW = 4, 256, 512
CASES = [  # kind, tokens, slots, tokens in the cache
    (LayerType.SLIDING, 512, WINDOW, (0, 1024)),
    (LayerType.FULL, 512, 2048, (0, 1024)),
    (LayerType.FULL, 2048, 8192, (0, 4096)),
    (LayerType.SLIDING, 1, WINDOW, (2048,)),
    (LayerType.FULL, 1, 2048, (512, 2000)),
    (LayerType.FULL, 1, 8192, (512, 2048, 8000)),
    (LayerType.FULL, 1, 32768, (512, 2048, 8192, 32000)),
]


def main() -> None:
    """Measure every form at every chunk and cache."""
    print(f"jax {jax.__version__}")
    for kind, tokens, slots, starts in CASES:
        case = AttentionCase(
            Platform.CPU, kind, "bfloat16", "bfloat16", 1, tokens, HEADS, 1, SIZE, slots
        )
        forms = attention_forms(case) | {"whole": None}
        for start in starts:
            times = medians(attention_calls(case, forms, [start]), repeats=7)
            text = "  ".join(
                f"{name.removeprefix('blocks of ')}{'*' if name == shipped_form(case) else ''} "
                f"{seconds * 1e3:.2f}"
                for name, seconds in times.items()
            )
            print(
                f"{kind:17} tokens {tokens:4} slots {slots:5} after {start:5}: {text}", flush=True
            )


if __name__ == "__main__":
    main()
