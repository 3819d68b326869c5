"""Pictures that transformers would make other pixels of are refused, not seen wrongly."""

import json

import pytest
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.export.checkpoint import open_checkpoint
from gemma3_export.export.claims import beyond_transformers
from gemma3_export.export.purpose import GENERATING, Generating, with_images
from gemma3_export.model.config import Gemma3TextConfig

from ...goldens.tiny_vision import write_checkpoint

PUBLISHED = {
    "do_convert_rgb": None, "do_normalize": True, "do_pan_and_scan": None, "do_rescale": True,
    "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "Gemma3ImageProcessor", "image_seq_length": 4,
    "image_std": [0.5, 0.5, 0.5], "pan_and_scan_max_num_crops": None,
    "processor_class": "Gemma3Processor", "resample": 2, "rescale_factor": 0.00392156862745098,
    "size": {"height": 28, "width": 28},
}  # fmt: skip
PLAIN, NESTED = "preprocessor_config.json", "processor_config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint("image", tmp_path_factory.mktemp("image"))


@pytest.fixture
def purpose(folder):
    """purpose(files) -> what the checkpoint with these files beside it is for."""

    def read(files):
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        checkpoint = open_checkpoint(folder)
        return with_images(GENERATING, checkpoint, Gemma3TextConfig.from_dict(checkpoint.config))

    original = (folder / "config.json").read_text()
    yield read
    (folder / "config.json").write_text(original)
    for name in (PLAIN, NESTED):
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {PLAIN: PUBLISHED},
        {PLAIN: {}, NESTED: {"image_processor": PUBLISHED, "image_seq_length": 4}},
        # transformers takes the nested one where there are two.
        {PLAIN: {"image_mean": [0.1] * 3}, NESTED: {"image_processor": PUBLISHED}},
    ],
    ids=["none", "published", "nested", "both"],
)
def test_pictures_as_the_runtimes_make_them_are_taken(purpose, files):
    assert isinstance(found := purpose(files), Generating)
    assert found.vision is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"image_mean": [0.48, 0.46, 0.41]}, {"image_std": [0.5, 0.5, 0.25]}, {"image_std": 1},
        {"do_normalize": False}, {"do_rescale": False}, {"do_resize": False},
        {"do_convert_rgb": False}, {"resample": 3}, {"rescale_factor": 1.0},
        {"size": {"height": 14, "width": 14}}, {"size": {"shortest_edge": 28}},
        {"do_pan_and_scan": True}, {"pan_and_scan_max_num_crops": 2},
        {"image_processor_type": "SiglipImageProcessor"}, {"image_mean": "x"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", [PLAIN, NESTED])
def test_another_way_to_make_pixels_is_refused_by_field(purpose, name, changes):
    fields = PUBLISHED | changes
    content = fields if name == PLAIN else {"image_processor": fields}
    with pytest.raises(ArtifactError, match=f"{name}: {next(iter(changes))}: expected") as error:
        purpose({name: content})
    assert "\n" not in str(error.value)


def test_another_number_of_soft_tokens_is_refused(purpose):
    with pytest.raises(ArtifactError, match="image_seq_length: expected 4"):
        purpose({NESTED: {"image_seq_length": 9}})


def test_a_cap_that_transformers_leaves_out_is_said(purpose, folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["final_logit_softcapping"] = 30.0
    purpose({"config.json": config})
    checkpoint = open_checkpoint(folder)
    (note,) = beyond_transformers(checkpoint, Gemma3TextConfig.from_dict(checkpoint.config))
    assert note.startswith("final_logit_softcapping of 30.0 is applied to the logits, where tra")


def test_another_tower_is_refused(purpose, folder):
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["model_type"] = "clip_vision_model"
    with pytest.raises(ArtifactError, match=r"vision_config\.model_type: expected siglip"):
        purpose({"config.json": config})
