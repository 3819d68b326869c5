"""What quantising costs: bytes, drift of log-probabilities and perplexity, on the real 270M.

    python tests/benchmarks/quantization.py FLOAT32_BUNDLE BUNDLE...

Every bundle scores the same text, the one of tests/goldens/texts.py, on one device:
set GEMMA3_KERNELS=none to leave kernels out. The first bundle is what the others are held against.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.score import score

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "goldens"))
import texts

TOKENS = 1000


def text() -> str:
    """Prose, code, lists, tables and seven languages."""
    return "\n".join(
        value
        for name, value in vars(texts).items()
        if name.isupper() and value and isinstance(value, str)
    )


def main() -> None:
    """Print one line of a Markdown table for each bundle."""
    print("| bundle | weights, MB | mean drift | largest drift | perplexity |")
    print("|---|---|---|---|---|")
    reference = None
    for path in sys.argv[1:]:
        model = LoadedModel.load(path)
        tokens = model.tokenizer.encode(text(), add_bos=True)[:TOKENS]
        logprobs = np.asarray(score(model, [tokens])[0].logprobs)
        reference = logprobs if reference is None else reference
        drift = np.abs(logprobs - reference)
        weights = sum(w.nbytes for w in model.bundle.manifest.weights)
        print(
            f"| {Path(path).name} | {weights / 1e6:.1f} | {drift.mean():.4f} | {drift.max():.3f} "
            f"| {np.exp(-logprobs.mean()):.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
