"""`gemma3-run --image`: pictures and arrays, prompts and token ids, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.runtime.images.encode import encode_images
from gemma3_export.runtime.images.files import load_images, pixels_of
from gemma3_export.runtime.images.prompt import encode_prompt, image_tokens
from gemma3_export.runtime.loading import model as model_module
from gemma3_export.runtime.loading.arrays import to_devices
from gemma3_export.runtime.loading.buckets import Shape
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.chunks import PREFILL, plan_calls
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters
from PIL import Image

from ..goldens.loader import vision_cases
from ..goldens.tiny_vision import pixels, write_checkpoint
from ..parity.bundles import make_bundle
from .conftest import Command
from .toy_bundle import toy_tokenizer

NAME = "image_beyond_window"
SIDE = 58
FEW = ("--max-new-tokens", 4, "--ignore-eos", "--json")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    checkpoint = write_checkpoint(NAME, folder / "checkpoint")
    (checkpoint / "tokenizer.model").write_bytes(toy_tokenizer())
    return make_bundle(checkpoint, folder / "bundle", prefill=(48,), cache=(256,))


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> LoadedModel:
    return LoadedModel.load(bundle, "1x1")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A long picture, which pan and scan cuts in two, and a small one."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    paths = [folder / "long.png", folder / "small.png"]
    for path, shape in zip(paths, [(300, 600, 3), (40, 50, 3)], strict=True):
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(path)
    return paths


def printed(result: tuple[int, str, str]) -> list[int]:
    """The tokens that a successful run printed."""
    status, out, err = result
    assert (status, err) == (0, "")
    value = json.loads(out)
    assert value["finish_reason"] == "length"
    return value["tokens"]


def written_out(tokens: list[int]) -> str:
    return ",".join(map(str, tokens))


@pytest.mark.parametrize("flags", [(), ("--chat",), ("--pan-and-scan",)])
def test_a_prompt_with_pictures_is_the_library_s_with_their_pixels(
    bundle: Path, loaded: LoadedModel, pictures: list[Path], gemma3_run: Command, flags: tuple
):
    vision = loaded.bundle.manifest.vision
    assert vision is not None
    paths = pictures[:1] if flags else pictures
    images = load_images(paths, SIDE, "--pan-and-scan" in flags)
    assert [image.crops for image in images] == [2 if "--pan-and-scan" in flags else 0] * len(paths)
    ids = encode_prompt(
        loaded.tokenizer, "the fox", [image.crops for image in images], image_tokens(vision),
        chat="--chat" in flags,
    )  # fmt: skip
    (expected,) = generate(
        loaded, [ids], SamplingParameters(), max_new_tokens=4, ignore_eos=True,
        images=pixels_of(images),
    )  # fmt: skip
    arguments = [part for path in paths for part in ("--image", path)]
    got = printed(gemma3_run(bundle, "--prompt", "the fox", *arguments, *flags, *FEW))
    assert got == expected.tokens


def test_tokens_are_used_as_given_with_an_array_of_two_images(
    bundle: Path, tmp_path: Path, gemma3_run: Command
):
    golden = next(p for p in vision_cases()[NAME].prompts if len(p.images) == 2)
    np.save(tmp_path / "two.npy", pixels(NAME, 3)[list(golden.images)])
    tokens = written_out(list(golden.tokens))
    got = printed(gemma3_run(bundle, "--tokens", tokens, "--image", tmp_path / "two.npy", *FEW))
    assert got == list(golden.generated[:4])


def test_a_prompt_of_text_needs_no_image(bundle: Path, gemma3_run: Command):
    golden = vision_cases()[NAME].prompts[0]
    got = printed(gemma3_run(bundle, "--tokens", written_out(list(golden.tokens)), *FEW))
    assert got == list(golden.generated[:4])


def test_a_chunk_of_text_alone_does_without_the_program_for_images(loaded: LoadedModel):
    golden = next(p for p in vision_cases()[NAME].prompts if len(p.images) == 1)
    prompt = [*[5] * 47, *golden.tokens, *[6] * 48]
    image = pixels(NAME, 1)
    calls = plan_calls(loaded, Shape(1, 256), [prompt], [image], PREFILL)
    programs = [call.program for call in calls]
    assert programs.count(ProgramName.PREFILL_IMAGES) == 1
    assert programs[0] == programs[-1] == ProgramName.PREFILL
    assert sum(length for call in calls for _, length in call.rows) == len(prompt)


def test_weights_of_the_vision_side_are_placed_with_the_first_image(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    placed = []
    monkeypatch.setattr(
        model_module, "to_devices", lambda *given: placed.append(None) or to_devices(*given)
    )
    model = LoadedModel.load(bundle, "1x1")
    sets = model.bundle.manifest.weight_sets
    assert len(placed) == len(sets["text"])
    encode_images(model, pixels(NAME, 1))
    encode_images(model, pixels(NAME, 2))
    assert len(placed) == len(sets["text"]) + len(sets["vision"])


def test_score_reads_images_too(bundle: Path, tmp_path: Path, gemma3_run: Command):
    golden = next(p for p in vision_cases()[NAME].prompts if len(p.images) == 1)
    np.save(tmp_path / "one.npy", pixels(NAME, 3)[list(golden.images)])
    text = [*golden.tokens, golden.generated[0]]
    status, out, err = gemma3_run(
        bundle, "--tokens", written_out(text), "--image", tmp_path / "one.npy", "--score", "--json"
    )
    assert status == 0, err
    logprobs = json.loads(out)["logprobs"]
    assert len(logprobs) == len(text) - 1
    assert logprobs[-1] == pytest.approx(golden.best[0][0][1], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "2,250,252,251", "--image"], "but 1 images need 16"),
        (["--tokens", "2," + ",".join(["252"] * 16)], "--image brings none"),
        (["--prompt", "<start_of_image>" * 2, "--image"], "2 times <start_of_image> but"),
        (["--prompt", "a", "--prompt", "b", "--image"], "--image goes with one prompt"),
        (["--prompt", "a", "--pan-and-scan"], "--pan-and-scan needs --image"),
        (["--tokens", "2," + ",".join(["252"] * 16), "--score"], "--image brings none"),
        (["--tokens", ",".join(["252"] * 16 * 4), "--image", "4"], "does not fit a prefill call"),
    ],
)
def test_images_that_do_not_suit_the_prompt_are_one_line_and_status_2(
    bundle: Path, tmp_path: Path, gemma3_run: Command, arguments: list[str], message: str
):
    if "--image" in arguments:
        at = arguments.index("--image")
        count = int((arguments[at + 1 :] or ["1"])[0])
        np.save(tmp_path / "x.npy", np.zeros((count, 3, SIDE, SIDE), np.float32))
        arguments = [*arguments[: at + 1], str(tmp_path / "x.npy")]
    status, out, err = gemma3_run(bundle, *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


def test_pixels_of_another_size_are_one_line_and_status_2(
    bundle: Path, tmp_path: Path, gemma3_run: Command
):
    np.save(tmp_path / "wide.npy", np.zeros((1, 3, SIDE, SIDE + 1), np.float32))
    status, _, err = gemma3_run(bundle, "--prompt", "a", "--image", tmp_path / "wide.npy")
    assert (status, err.count("\n")) == (2, 1)
    assert "expected pixels [N,3,58,58] float32 in -1..1, got shape [1,3,58,59]" in err
