"""gemma3-host --image gives the tokens of gemma3-run, from arrays, pictures and crops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from PIL import Image

from ..goldens.loader import vision_cases
from ..goldens.tiny_vision import pixels, write_checkpoint
from ..parity.bundles import make_bundle
from ..runtime.conftest import Command
from ..runtime.toy_bundle import toy_tokenizer
from .conftest import Ended, Host
from .library import call, serve

NAME = "image_beyond_window"
NO_CACHE = 1  # of gemma3_options: neither read nor write compiled programs
FEW = ("--max-new-tokens", "6", "--ignore-eos", "--json")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny multimodal bundle for one device and for eight."""
    folder = tmp_path_factory.mktemp("images")
    checkpoint = write_checkpoint(NAME, folder / "checkpoint")
    (checkpoint / "tokenizer.model").write_bytes(toy_tokenizer())
    return make_bundle(
        checkpoint, folder / "bundle", "1x1", "2x4", prefill=(48,), cache=(256,), images=(1, 2)
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A long picture, which pan and scan cuts in two, and a small one that lies on its side."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    long = Image.fromarray(random.integers(0, 256, (300, 600, 3), np.uint8))
    small = Image.fromarray(random.integers(0, 256, (40, 50, 4), np.uint8))
    small.getexif()[0x0112] = 6
    long.save(folder / "long.png")
    small.save(folder / "small.png", exif=small.getexif())
    return [folder / "long.png", folder / "small.png"]


@pytest.mark.parametrize("mesh", ["1x1", "2x4"])
def test_golden_tokens_of_transformers_from_arrays(
    bundle: Path, gemma3_host: Host, tmp_path: Path, mesh: str
):
    goldens = [golden for golden in vision_cases()[NAME].prompts if golden.images]
    assert {len(golden.images) for golden in goldens} >= {1, 2}
    for golden in goldens:
        np.save(tmp_path / "a.npy", pixels(NAME, 3)[list(golden.images)])
        (value,) = gemma3_host(
            bundle, "--tokens", ",".join(map(str, golden.tokens)), "--image", tmp_path / "a.npy",
            "--mesh", mesh, "--max-new-tokens", len(golden.generated), "--ignore-eos", "--json",
        ).values  # fmt: skip
        assert value["tokens"] == list(golden.generated)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("the fox " * 30, []),  # chunks of text alone after the one with the images
        ("one <start_of_image> and <start_of_image> more", ["--pan-and-scan"]),
        ("  \n日本<end_of_image> ", ["--chat"]),
    ],
)
def test_pictures_give_the_tokens_of_gemma3_run(
    bundle: Path, pictures: list[Path], gemma3_host: Host, gemma3_run: Command,
    text: str, flags: list[str],
):  # fmt: skip
    images = ["--image", pictures[0], "--image", pictures[1]]
    arguments = [bundle, "--prompt", text, *images, *flags, *FEW]
    status, out, err = gemma3_run(*arguments)
    assert (status, err) == (0, "")
    (value,) = gemma3_host(*arguments).values
    assert value["tokens"] == json.loads(out)["tokens"]
    assert value["text"] == json.loads(out)["text"]


def test_images_cost_nothing_where_there_are_none(bundle: Path, native: Path, tmp_path: Path):
    """Weights of the vision side wait for an image, and chunks of text need no place for one."""
    golden = next(p for p in vision_cases()[NAME].prompts if len(p.images) == 1)
    text = [*[5] * 47, *golden.tokens, *[6] * 48]  # three chunks: the image is in the second
    np.save(tmp_path / "one.npy", pixels(NAME, 1))
    replies = serve(
        native / "libgemma3.so", call("open", bundle=str(bundle), mesh="1x1", flags=NO_CACHE),
        call("score", [[5] * 40]), call("stats"),
        call("generate", [text], 1, pixels=str(tmp_path / "one.npy")), call("stats"),
    )  # fmt: skip
    manifest = Bundle.open(bundle).manifest
    sizes = {weight.name: weight.nbytes for weight in manifest.weights}
    of_text = sum(sizes[name] for name in manifest.weight_sets["text"])
    assert len(replies.value(3)[0]["tokens"]) == 1
    read, seen = replies.value(2), replies.value(4)
    assert read["weights"]["bytes"] == of_text < sum(sizes.values())
    assert seen["weights"]["bytes"] == sum(sizes.values())
    # score; then encode_image, prefill_images for the second chunk and prefill for the others
    assert (read["programs"]["compiled"], seen["programs"]["compiled"]) == (1, 1 + 3)


def test_refuses_images_in_the_words_of_gemma3_run(
    bundle: Path, pictures: list[Path], gemma3_host: Host, gemma3_run: Command, tmp_path: Path
):
    np.save(tmp_path / "wrong.npy", np.zeros((1, 3, 5, 5), np.float32))
    picture = ["--image", pictures[0]]
    for arguments in (
        ["--prompt", "<start_of_image> <start_of_image>", *picture],
        ["--prompt", "a", "--image", tmp_path / "wrong.npy"],
        ["--prompt", "a", "--image", tmp_path / "none.png"],
    ):
        expected = Ended(*gemma3_run(bundle, *arguments))
        assert expected.status == 2
        assert gemma3_host(bundle, *arguments) == expected


def test_encoded_images_fill_their_room_and_no_more(bundle: Path, native: Path) -> None:
    open_it = call("open", bundle=str(bundle), mesh="1x1", flags=NO_CACHE)
    sizes = serve(native / "libgemma3.so", open_it, call("sizes")).value(1)
    image = sizes["channels"] * sizes["image_size"] ** 2
    needed = 3 * sizes["tokens_per_image"] * sizes["soft_token_size"]
    assert (sizes["channels"], sizes["image_positions"]) == (3, 256)
    replies = serve(
        native / "libgemma3.so",
        open_it,
        call("encode_images", 3, image, needed),
        call("encode_images", 3, image, needed - 1),
        call("set_cancel", True),
        call("encode_images", 3, image, needed),
    )
    last, behind = replies.value(1)
    assert (last != 0, behind) == (True, 7)
    said = f"soft_tokens: expected room for {needed}, got {needed - 1}"
    assert replies.values[2]["refused"] == [2, said, needed]
    assert replies.refused(4, 3) == "cancelled"
