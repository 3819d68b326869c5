"""Makes the goldens: `python -m tests.goldens.make tiny`, `real`, `vision`, `processor`,
`heads` or `outputs`.

See README.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from .make_heads import make_heads
from .make_outputs import make_outputs
from .make_processor import make_processor
from .make_real import make_real
from .make_tiny import make_tiny
from .make_vision import make_vision

DATA = Path(__file__).parent / "data"


def write(path: Path, content: dict[str, Any], limit: int) -> None:
    """Write `content` as JSON, one line for each entry of its lists and inner objects."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list):
            lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in value)
            parts.append(f"{json.dumps(key)}: [\n{lines}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    assert json.loads(text) == content
    assert len(text.encode()) < limit, f"{path} would have {len(text.encode())} bytes"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    print(f"{path}: {len(text.encode())} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["tiny", "real", "vision", "processor", "heads", "outputs"])
    what = parser.parse_args().what
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if what == "tiny":
        write(DATA / "tiny.json", make_tiny(), limit=400_000)
    elif what == "vision":
        write(DATA / "vision.json", make_vision(), limit=300_000)
    elif what == "heads":
        write(DATA / "heads.json", make_heads(), limit=100_000)
    elif what == "outputs":
        write(DATA / "outputs.json", make_outputs(), limit=400_000)
    elif what == "processor":
        write(DATA / "processor.json", make_processor(), limit=100_000)
    else:
        write(DATA / "270m.json", make_real(), limit=300_000)


if __name__ == "__main__":
    main()
