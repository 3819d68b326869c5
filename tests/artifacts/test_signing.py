"""Signatures: made offline, refused when anything of the bundle is not what was signed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gemma3_export.artifacts import signing
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.artifacts.signing import require_signature, sign

from ..signing_keys import write_certificates, write_key

Keys = tuple[Path, Path]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return write_key(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def signed_once(written_once: Path, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = Path(shutil.copytree(written_once, tmp_path_factory.mktemp("signed") / "tiny"))
    assert sign(Bundle.open(bundle), keys[0], None, ()) == bundle / "model.sig"
    return bundle


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed_once, tmp_path / "tiny"))


def test_a_signed_bundle_is_accepted_wherever_it_lies_and_under_any_name(
    signed: Path, keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    require_signature(signed, keys[1])
    require_signature(signed.rename(tmp_path / "renamed"), keys[1])
    assert capsys.readouterr().out == ""


def test_what_a_killed_signer_left_is_removed(tiny: Path, keys: Keys):
    (tiny / ".model.sig.partial").write_text("half")
    sign(Bundle.open(tiny), keys[0], None, ())
    require_signature(tiny, keys[1])
    assert not (tiny / ".model.sig.partial").exists()


def test_certificates_lead_to_their_root_and_to_no_other(tiny: Path, tmp_path: Path):
    private, certificate, root = write_certificates(tmp_path, "ours")
    _, _, other = write_certificates(tmp_path, "theirs")
    sign(Bundle.open(tiny), private, certificate, ())
    require_signature(tiny, root)
    with pytest.raises(ArtifactError, match=r"not a signature of this bundle by .*theirs-root"):
        require_signature(tiny, other)


def change_manifest(bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "tiny"', '"name": "tinx"'))


def change_weights(bundle: Path) -> None:
    data = bytearray((bundle / "weights/model.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle / "weights/model.safetensors").write_bytes(data)


def change_tokenizer(bundle: Path) -> None:
    (bundle / "tokenizer/tokenizer.model").write_bytes(b"PIECES")


def remove_program(bundle: Path) -> None:
    next(bundle.glob("programs/1x1/cpu/decode*.mlirbc")).unlink()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (change_manifest, "manifest.json"), (change_weights, "weights/model.safetensors"),
        (change_tokenizer, "tokenizer/tokenizer.model"), (remove_program, ""),
    ],
)  # fmt: skip
def test_whatever_changed_since_is_refused_and_named(
    signed: Path, keys: Keys, damage: Callable[[Path], None], named: str
):
    damage(signed)
    with pytest.raises(ArtifactError, match=r"model.sig: not a signature of this bundle") as error:
        require_signature(signed, keys[1])
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_another_key_is_refused(signed: Path, tmp_path: Path):
    _, public = write_key(tmp_path, "theirs")
    with pytest.raises(ArtifactError, match="Key mismatch"):
        require_signature(signed, public)


def test_a_key_does_not_stand_for_a_certificate_nor_a_certificate_for_a_key(
    tiny: Path, keys: Keys, tmp_path: Path
):
    private, certificate, root = write_certificates(tmp_path, "ours")
    sign(Bundle.open(tiny), private, certificate, ())
    with pytest.raises(ArtifactError, match=r"got one with a certificate; pass the root of the"):
        require_signature(tiny, keys[1])
    sign(Bundle.open(tiny), keys[0], None, ())
    with pytest.raises(ArtifactError, match=r"got one with a key; pass the public key of the"):
        require_signature(tiny, root)


def test_an_unsigned_bundle_is_refused(tiny: Path, keys: Keys):
    with pytest.raises(ArtifactError, match=r"model.sig: expected a signature, got none"):
        require_signature(tiny, keys[1])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"dsseEnvelope": {"payload": "e30="}}', "\x00"])
def test_a_file_that_is_no_signature_is_refused(tiny: Path, keys: Keys, text: str):
    (tiny / "model.sig").write_text(text)
    with pytest.raises(ArtifactError, match="expected a signature by model-signing"):
        require_signature(tiny, keys[1])


def test_a_signature_that_leaves_a_file_out_is_refused(
    tiny: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(signing, "UNSIGNED", ("model.sig", "weights"))
        patch.setattr(signing, "_refuse_strangers", lambda bundle: None)
        sign(Bundle.open(tiny), keys[0], None, ())
    with pytest.raises(ArtifactError, match=r"got one without weights/model\.safetensors"):
        require_signature(tiny, keys[1])


def test_a_linked_file_is_refused(signed: Path, keys: Keys):
    file = signed / "tokenizer/tokenizer.model"
    file.rename(signed / "tokenizer/real")
    file.symlink_to("real")
    with pytest.raises(ArtifactError, match="not a signature of this bundle"):
        require_signature(signed, keys[1])
    (signed / "tokenizer/tokenizer.model").unlink()
    (signed / "tokenizer/real").rename(signed / "tokenizer/tokenizer.model")
    weights = signed / "weights"
    weights.rename(signed / "elsewhere")
    weights.symlink_to("elsewhere")
    with pytest.raises(UsageError, match=r"elsewhere/model.safetensors; remove it and sign"):
        sign(Bundle.open(signed), keys[0], None, ())


def test_compiled_code_is_left_out_and_other_strangers_are_not_signed(tiny: Path, keys: Keys):
    (tiny / "compiled/cpu").mkdir(parents=True)
    (tiny / "compiled/cpu/index.json").write_text("{}")
    sign(Bundle.open(tiny), keys[0], None, ())
    (tiny / "compiled/cpu/index.json").write_text("{ }")
    require_signature(tiny, keys[1])
    (tiny / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"expected only files of the manifest, got notes.txt"):
        sign(Bundle.open(tiny), keys[0], None, ())


def test_a_damaged_bundle_is_not_signed(tiny: Path, keys: Keys):
    change_weights(tiny)
    with pytest.raises(ArtifactError, match="contents changed"):
        sign(Bundle.open(tiny), keys[0], None, ())
    assert not (tiny / "model.sig").exists()


def test_keys_that_cannot_be_used_are_named_in_one_line(tiny: Path, keys: Keys, tmp_path: Path):
    not_pem = tmp_path / "not.pem"
    not_pem.write_text("nothing")
    for key in (not_pem, keys[1], tmp_path / "missing.pem"):
        with pytest.raises(UsageError, match=f"{key.name}: cannot sign with it: .*expected PEM"):
            sign(Bundle.open(tiny), key, None, ())
    sign(Bundle.open(tiny), keys[0], None, ())
    for key in (not_pem, keys[0], tmp_path / "missing.pem"):
        with pytest.raises(UsageError, match=f"{key.name}: cannot verify with it: .*expected PEM"):
            require_signature(tiny, key)


def test_a_certificate_of_another_key_is_refused(tiny: Path, keys: Keys, tmp_path: Path):
    _, certificate, _ = write_certificates(tmp_path, "theirs")
    with pytest.raises(UsageError, match="does not match"):
        sign(Bundle.open(tiny), keys[0], certificate, ())


def test_without_the_library_the_extra_is_named(
    tiny: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(UsageError, match=r"install gemma3-export\[sign\]"):
        sign(Bundle.open(tiny), keys[0], None, ())
