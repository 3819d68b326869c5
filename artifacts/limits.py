"""Sizes in a manifest that no sound one comes near, looked at before anything is done with them."""

from __future__ import annotations

from .codec import refuse
from .manifest import Manifest

MAX_AXES = 20
"""Of a mesh: with as many as that each of two devices."""
TOKEN_IDS = range(-(2**31), 2**31)
"""Programs take ids of 32 bits: hosts would take a larger one for another. Ids outside of the
vocabulary are no token, which is how a model that has none of a kind may say so."""


def check_limits(manifest: Manifest, where: str) -> None:
    """Refuse a manifest that is beyond the limits above; `where` names the file in errors.

    Raises:
        ArtifactError: names the JSON path, what was expected and what is there.
    """
    for index, record in enumerate(manifest.meshes):
        axes = len(record.mesh.axes)
        if axes > MAX_AXES:
            path = f"meshes[{index}] ({record.mesh.name}).axes"
            refuse(where, path, f"at most {MAX_AXES}", str(axes))
    model, vision = manifest.model, manifest.vision
    ids = {"model.bos_token_id": [model.bos_token_id], "model.pad_token_id": [model.pad_token_id]}
    ids["model.eos_token_ids"] = list(model.eos_token_ids)
    if vision is not None:
        for name in ("begin_token_id", "soft_token_id", "end_token_id"):
            ids[f"vision.{name}"] = [getattr(vision, name)]
    for path, values in ids.items():
        for value in values:
            if value not in TOKEN_IDS:
                limit = f"at least {TOKEN_IDS[0]}" if value < 0 else f"at most {TOKEN_IDS[-1]}"
                refuse(where, path, limit, str(value))
