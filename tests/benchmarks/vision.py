"""The vision side at the size of the 4B, in float32 with random weights, held against transformers.

    python tests/benchmarks/vision.py FOLDER [PYTHON]

Exports `encode_image` in FOLDER (4 GB), encodes a photograph, and prints seconds and memory.
PYTHON is that of an environment with torch and transformers: there the same is done, and the soft
tokens are compared.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.goldens.tiny_vision import TINY_VISION, write_checkpoint

NAME, SIZE, REPEATS = "full vision", 896, 2
# The tower and the projector are whole; of the text stack, which is not looked at, little is there.
CONFIG = TINY_VISION["image"] | {
    "mm_tokens_per_image": 256,
    "text_config": TINY_VISION["image"]["text_config"]
    | {"hidden_size": 2560, "num_hidden_layers": 1},
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": SIZE,
        "patch_size": 14,
        "vision_use_head": False,
    },
}


def timed(encode: Callable[[np.ndarray], np.ndarray], folder: Path) -> dict[str, float]:
    """Encode the picture in `folder` several times; leaves the soft tokens beside it."""
    pixels, seconds = np.load(folder / "pixels.npy"), []
    for _ in range(1 + REPEATS):
        begun = time.perf_counter()
        soft = encode(pixels)
        seconds.append(time.perf_counter() - begun)
    np.save(folder / f"soft-{encode.__name__}.npy", soft)
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {
        "first_s": seconds[0],
        "median_s": statistics.median(seconds[1:]),
        "peak_mib": int(peak) / 1024,
    }


def transformers(folder: Path) -> dict[str, float]:
    """transformers, eager attention, in this process."""
    import torch
    from transformers import Gemma3ForConditionalGeneration

    torch.set_num_threads(2)
    model = Gemma3ForConditionalGeneration.from_pretrained(
        folder / "checkpoint", dtype=torch.float32, attn_implementation="eager"
    ).eval()

    def transformers(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model.get_image_features(torch.from_numpy(pixels)).pooler_output.numpy()

    return timed(transformers, folder)


def ours(folder: Path) -> dict[str, float]:
    """The exported program in this process."""
    from gemma3_export.runtime.images.encode import encode_images
    from gemma3_export.runtime.loading.model import LoadedModel

    model = LoadedModel.load(folder / "bundle", "1x1")

    def ours(pixels: np.ndarray) -> np.ndarray:
        return encode_images(model, pixels)

    return timed(ours, folder)


def prepare(folder: Path) -> None:
    """Checkpoint, bundle and pixels, unless they are there."""
    from gemma3_export.runtime.images.files import load_images

    TINY_VISION[NAME] = CONFIG
    if not (folder / "checkpoint").exists():
        write_checkpoint(NAME, folder / "checkpoint")
    photograph = Path(__file__).parents[1] / "goldens" / "photographs" / "rocket.jpg"
    np.save(folder / "pixels.npy", load_images([photograph], SIZE)[0].pixels)
    subprocess.run(
        [
            Path(sys.executable).with_name("gemma3-export"), "--checkpoint", folder / "checkpoint",
            "--mesh", "1x1", "--dtype", "float32", "--images", "1", "--prefill", "256", "--cache",
            "256", "--out", folder / "bundle", "--force",
        ],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def main(folder: Path, python: str | None) -> None:
    """Print what was measured, and how far the soft tokens are apart."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder)
    for name, program in (("ours", sys.executable), ("transformers", python)):
        if program is None:
            return
        done = subprocess.run(
            [program, __file__, "--measure", name, folder], check=True, capture_output=True
        )
        print(name, done.stdout.decode().splitlines()[-1], flush=True)
    one, other = (np.load(folder / f"soft-{name}.npy") for name in ("ours", "transformers"))
    print(
        f"{one.shape} soft tokens: largest difference {np.abs(one - other).max():.2e}, mean "
        f"{np.abs(one - other).mean():.2e}, deviation {other.std():.3f}, largest "
        f"{np.abs(other).max():.2f}"
    )


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        measure = {"ours": ours, "transformers": transformers}[sys.argv[2]]
        print(json.dumps(measure(Path(sys.argv[3]))))
    else:
        main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
