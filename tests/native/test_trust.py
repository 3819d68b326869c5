"""Who made a bundle, and that what was checked is what is used, through the C interface."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.artifacts.signing import sign

from ..runtime.toy_bundle import Toy, make_toy_bundle
from ..runtime.toy_model import reference_greedy
from ..signing_keys import write_key
from .library import INTEGRITY, NOT_FOUND, USAGE, Replies, build, call, serve

NO_CACHE, VERIFY, COPY_WEIGHTS = 1, 4, 8
TEXT = [2, 17, 18, 40]
WEIGHTS = "weights/model.safetensors"
OPTIONS_OF_1_1 = 88
"""Bytes of gemma3_options before it had members for trust."""


@pytest.fixture(scope="module")
def library() -> Path:
    return build("tests") / "libgemma3.so"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a signed bundle `toy` and the public keys ours.pub and theirs.pub."""
    folder = tmp_path_factory.mktemp("made")
    bundle = make_toy_bundle(folder / "toy", Toy(batch=(1,), prefill=(4,)))
    private, public = write_key(folder, "ours")
    sign(Bundle.open(bundle), private, None, ())
    public.rename(folder / "ours.pub")
    write_key(folder, "theirs")[1].rename(folder / "theirs.pub")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of `made`, with `other`: a weight file of the same header and other numbers."""
    copy = Path(shutil.copytree(made, tmp_path / "made"))
    data = (copy / "toy" / WEIGHTS).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    (copy / "other").write_bytes(data[:start] + (-np.frombuffer(data[start:], "<f4")).tobytes())
    return copy


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "toy" / "manifest.json").read_bytes()).hexdigest()


def tokens(replies: Replies, index: int) -> list[int]:
    return replies.value(index)[0]["tokens"]


def generating(folder: Path, **values: object) -> tuple[list, list]:
    """Requests that open the bundle of `folder`, as `values` say, and generate 4 tokens."""
    given = {"flags": NO_CACHE, **values}
    place = {} if "opened" in given else {"bundle": str(folder / "toy")}
    return call("open", **place, **given), call("generate", [TEXT], 4)


def test_a_pin_says_which_manifest_it_is(library: Path, folder: Path) -> None:
    right, wrong = digest(folder), "0" * 64
    replies = serve(
        library,
        *generating(folder, manifest_sha256=right.upper()),
        *generating(folder, manifest_sha256=wrong),
        *generating(folder, manifest_sha256=right[:-1]),
        *generating(folder, manifest_sha256=""),
        call("open_bundle", str(folder / "toy")),
        call("open", opened=True, manifest_sha256=wrong),
    )
    assert tokens(replies, 1) == reference_greedy(TEXT, 4)
    expected = f"{folder}/toy/manifest.json: expected SHA-256 {wrong}, got {right}; take"
    assert replies.refused(2, INTEGRITY).startswith(expected)
    assert "expected 64 hexadecimal digits" in replies.refused(4)
    assert replies.refused(6) == "manifest_sha256: expected a text, got none"
    assert replies.refused(9, INTEGRITY).startswith(expected)


def test_a_pin_is_compared_before_the_manifest_is_parsed(library: Path, folder: Path) -> None:
    (folder / "toy" / "manifest.json").write_text("[" * 100)
    replies = serve(library, call("open", bundle=str(folder / "toy"), manifest_sha256="1" * 64))
    assert "expected SHA-256 111" in replies.refused(0, INTEGRITY)


def test_the_option_demands_a_signature(library: Path, folder: Path) -> None:
    ours, theirs = str(folder / "ours.pub"), str(folder / "theirs.pub")
    replies = serve(
        library,
        *generating(folder, require_signature=ours),
        call("open", bundle=str(folder / "toy"), require_signature=theirs),
        call("open", bundle=str(folder / "toy"), require_signature=""),
        call("open_bundle", str(folder / "toy")),
        call("verify_signature", theirs),
        call("verify_signature", ours),
        call("write_over", str(folder / "other"), str(folder / "toy" / WEIGHTS)),
        call("verify_signature", ours),
        call("open", bundle=str(folder / "toy"), require_signature=ours),
        call("check", bundle=str(folder / "toy"), require_signature=ours),
    )
    assert tokens(replies, 1) == reference_greedy(TEXT, 4)
    assert f"not a signature of this bundle by {theirs}" in replies.refused(2, INTEGRITY)
    assert replies.refused(3) == "require_signature: expected a text, got none"
    assert f"not a signature of this bundle by {theirs}" in replies.refused(5, INTEGRITY)
    assert replies.value(6) is None
    for index in (8, 9):
        assert f"{WEIGHTS} is not what was signed" in replies.refused(index, INTEGRITY)
    assert f"{WEIGHTS} is not what was signed" in replies.value(10)["problem"]


@pytest.mark.parametrize("copy", [0, COPY_WEIGHTS], ids=["mapped", "copied"])
def test_files_exchanged_after_the_signature_was_verified_are_not_used(
    library: Path, folder: Path, copy: int
) -> None:
    toy = folder / "toy"
    program = next(toy.glob("programs/1x1/cpu/generate*.mlirbc"))
    tokenizer = toy / "tokenizer" / "tokenizer.model"
    for path in (program, tokenizer):
        (folder / path.name).write_bytes(path.read_bytes()[:-1] + b"\x7f")
    replies = serve(
        library,
        call("open_bundle", str(toy)),
        call("verify_signature", str(folder / "ours.pub")),
        call("bundle_file", "tokenizer/tokenizer.model"),
        call("rename", str(folder / "other"), str(toy / WEIGHTS)),
        call("rename", str(folder / tokenizer.name), str(tokenizer)),
        *generating(folder, opened=True, flags=NO_CACHE | copy),
        call("bundle_file", "tokenizer/tokenizer.model"),
        call("bundle_file", WEIGHTS),
        call("rename", str(folder / program.name), str(program)),
        *generating(folder, opened=True, flags=NO_CACHE | copy),
        *generating(folder),
    )
    assert tokens(replies, 6) == reference_greedy(TEXT, 4)
    assert "tokenizer.model: contents changed" in replies.refused(7, INTEGRITY)
    weights = Bundle.open(toy).digest(WEIGHTS)
    assert replies.value(8) == weights
    assert f"{program.name}: contents changed" in replies.refused(11, INTEGRITY)
    assert f"{program.name}: contents changed" in replies.refused(13, INTEGRITY)


def test_a_folder_exchanged_after_it_was_opened_is_not_used(library: Path, folder: Path) -> None:
    evil = Path(shutil.copytree(folder / "toy", folder / "evil"))
    (folder / "other").rename(evil / WEIGHTS)
    replies = serve(
        library,
        call("open_bundle", str(folder / "toy")),
        call("rename", str(folder / "toy"), str(folder / "elsewhere")),
        call("rename", str(evil), str(folder / "toy")),
        *generating(folder, opened=True),
        call("close_bundle"),
        call("generate", [TEXT], 4),
        *generating(folder),
    )
    assert tokens(replies, 4) == tokens(replies, 6) == reference_greedy(TEXT, 4)
    assert tokens(replies, 8) != reference_greedy(TEXT, 4)


def test_copied_weights_are_those_of_the_file_when_it_was_opened(
    library: Path, folder: Path
) -> None:
    original = folder / "original"
    shutil.copy(folder / "toy" / WEIGHTS, original)
    (folder / "empty").write_bytes(b"")
    target = str(folder / "toy" / WEIGHTS)
    replies = serve(
        library,
        *generating(folder),
        call("write_over", str(folder / "other"), target),
        call("generate", [TEXT], 4),
        call("write_over", str(original), target),
        *generating(folder, flags=NO_CACHE | COPY_WEIGHTS | VERIFY),
        call("stats"),
        call("write_over", str(folder / "other"), target),
        call("generate", [TEXT], 4),
        call("write_over", str(folder / "empty"), target),
        call("generate", [TEXT], 4),
    )
    assert tokens(replies, 1) == reference_greedy(TEXT, 4)
    assert tokens(replies, 3) != tokens(replies, 1)  # mapped: what is written later shows
    for index in (6, 9, 11):
        assert tokens(replies, index) == tokens(replies, 1)
    weights = replies.value(7)["weights"]
    assert (weights["mapped_bytes"], weights["copied_bytes"]) == (0, weights["bytes"])


@pytest.mark.parametrize("flags", [VERIFY, VERIFY | COPY_WEIGHTS])
def test_changed_weights_are_refused_where_digests_are_asked_for(
    library: Path, folder: Path, flags: int
) -> None:
    shutil.copy(folder / "other", folder / "toy" / WEIGHTS)
    replies = serve(library, call("open", bundle=str(folder / "toy"), flags=NO_CACHE | flags))
    assert f"{WEIGHTS}: contents changed: expected SHA-256" in replies.refused(0, INTEGRITY)


def test_weights_written_between_the_signature_and_the_copy_are_refused(
    library: Path, folder: Path
) -> None:
    replies = serve(
        library,
        call("open_bundle", str(folder / "toy")),
        call("verify_signature", str(folder / "ours.pub")),
        call("write_over", str(folder / "other"), str(folder / "toy" / WEIGHTS)),
        call("open", opened=True, flags=NO_CACHE | COPY_WEIGHTS),
    )
    assert f"{WEIGHTS}: contents changed: expected SHA-256" in replies.refused(3, INTEGRITY)


def test_a_pin_vouches_for_copied_weights_too(library: Path, folder: Path) -> None:
    shutil.copy(folder / "other", folder / "toy" / WEIGHTS)
    replies = serve(
        library,
        *generating(folder, manifest_sha256=digest(folder), flags=NO_CACHE | COPY_WEIGHTS),
    )
    assert f"{WEIGHTS}: contents changed: expected SHA-256" in replies.refused(0, INTEGRITY)


def test_options_of_an_older_header_are_taken_and_strange_ones_refused(
    library: Path, folder: Path
) -> None:
    toy = str(folder / "toy")
    replies = serve(
        library,
        *generating(folder, size=OPTIONS_OF_1_1, manifest_sha256="beyond its size"),
        call("open", bundle=toy, flags=1 << 20),
        call("open"),
        call("open_bundle", toy),
        call("open", bundle=toy, opened=True),
    )
    assert tokens(replies, 1) == reference_greedy(TEXT, 4)
    assert replies.refused(2) == "options.flags: has flags that this library lacks"
    assert replies.refused(3) == "options.bundle: expected a pointer, got NULL"
    assert replies.refused(5) == "options: expected `bundle` or `opened`, got both"


# Links in place of the tokenizer's folder or file: where they lead, from where, and whether that
# is inside the bundle.
LINKS = {
    "a file beside it": ("tokenizer/tokenizer.model", "real.model", True),
    "up and down again": ("tokenizer/tokenizer.model", "../tokenizer/./real.model", True),
    "a link to a link": ("tokenizer/tokenizer.model", "again", True),
    "by the whole path": ("tokenizer/tokenizer.model", "{bundle}/tokenizer/real.model", True),
    "out and in again": ("tokenizer/tokenizer.model", "../../toy/tokenizer/real.model", False),
    "a folder out and in again": ("tokenizer", "../toy/moved", False),
    "out of it": ("tokenizer/tokenizer.model", "../../real.model", False),
    "anywhere": ("tokenizer/tokenizer.model", "/etc/hostname", False),
    "a folder inside": ("tokenizer", "moved", True),
    "a folder outside": ("tokenizer", "../outside", False),
    "itself": ("tokenizer/tokenizer.model", "tokenizer.model", False),
    "a folder in place of a file": ("tokenizer/tokenizer.model", "../weights", False),
    "nothing": ("tokenizer/tokenizer.model", "none", False),
}


@pytest.mark.parametrize("case", LINKS)
def test_links_are_followed_inside_the_bundle_only(library: Path, folder: Path, case: str) -> None:
    name, target, inside = LINKS[case]
    toy = folder / "toy"
    model = toy / "tokenizer" / "tokenizer.model"
    shutil.copy(model, folder / "real.model")
    shutil.copytree(model.parent, folder / "outside")
    (model.parent / "again").symlink_to("real.model")
    if name == "tokenizer":
        (toy / name).rename(toy / "moved")
    else:
        model.rename(model.with_name("real.model"))
    (toy / name).symlink_to(target.format(bundle=toy))
    replies = serve(library, call("open_bundle", str(toy)))
    if inside:
        assert replies.value(0) is None
        Bundle.open(toy)
        return
    said = replies.refused(0, NOT_FOUND if case == "nothing" else USAGE)
    assert "tokenizer/tokenizer.model" in said
    with pytest.raises(ArtifactError) as refused:
        Bundle.open(toy)
    assert str(refused.value) == said
