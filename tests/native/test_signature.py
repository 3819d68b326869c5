"""gemma3-host --require-signature: what gemma3-bundle signed, as gemma3-run verifies it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from gemma3_export.artifacts import signing
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.signing import require_signature, sign

from ..runtime.toy_bundle import Toy, make_toy_bundle
from ..runtime.toy_model import reference_greedy
from ..signing_keys import write_certificates, write_key
from .conftest import Ended, Host
from .library import BIN, ROOT

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
ONE = ("--tokens", "2,17,18,40", "--json", "--no-cache", "--max-new-tokens", "2", "--ignore-eos")


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_bundle(tmp_path_factory.mktemp("b") / "toy", Toy(batch=(1,), prefill=(4,)))


@pytest.fixture(scope="module")
def signed_once(unsigned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A signed bundle and the public key."""
    folder = tmp_path_factory.mktemp("signed")
    bundle = Path(shutil.copytree(unsigned, folder / "toy"))
    private, public = write_key(folder, "ours")
    sign(Bundle.open(bundle), private, None, ())
    return bundle, public


@pytest.fixture
def signed(signed_once: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    bundle, public = signed_once
    return Path(shutil.copytree(bundle, tmp_path / "toy")), public


def check(gemma3_host: Host, bundle: Path, key: Path) -> Ended:
    """Whether the bundle loads here, once its signature has been verified."""
    return gemma3_host(bundle, "--check", "--json", "--require-signature", key)


def refused(ended: Ended, message: str) -> None:
    assert (ended.status, ended.out) == (2, ""), ended
    assert ended.err.count("\n") == 1
    assert message in ended.err, ended.err


def test_a_signed_bundle_runs(signed: tuple[Path, Path], gemma3_host: Host):
    bundle, key = signed
    (value,) = gemma3_host(bundle, *ONE, "--require-signature", key).values
    assert value["tokens"] == reference_greedy([2, 17, 18, 40], 2)


@pytest.mark.parametrize("curve", ["P-384", "P-521"])
def test_keys_of_other_curves_verify_what_they_signed(
    unsigned: Path, gemma3_host: Host, tmp_path: Path, curve: str
):
    bundle = Path(shutil.copytree(unsigned, tmp_path / "toy"))
    private, public = write_key(tmp_path, "ours", CURVES[curve])
    sign(Bundle.open(bundle), private, None, ())
    assert check(gemma3_host, bundle, public).status == 0


def change(bundle: Path, name: str) -> str:
    path = bundle / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    return f"{name} is not what was signed"


def remove_program(bundle: Path) -> str:
    path = next(bundle.glob("programs/1x1/cpu/generate*.mlirbc"))
    path.unlink()
    return f"expected file {path.relative_to(bundle)} of the bundle, got: No such file"


def link(bundle: Path, name: str) -> str:
    path = bundle / name
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    return f"{name} is not a file that can be read"


@pytest.mark.parametrize(
    "damage",
    [
        lambda bundle: change(bundle, "weights/model.safetensors"),
        lambda bundle: change(bundle, "tokenizer/tokenizer.model"),
        lambda bundle: link(bundle, "weights/model.safetensors"),
        lambda bundle: link(bundle, "tokenizer/tokenizer.model"),
    ],
)  # fmt: skip
def test_whatever_changed_since_is_refused_and_named(
    signed: tuple[Path, Path], gemma3_host: Host, damage: Callable[[Path], str]
):
    bundle, key = signed
    message = damage(bundle)
    refused(
        check(gemma3_host, bundle, key),
        f"{bundle}/model.sig: not a signature of this bundle by {key}: {message}; ",
    )


def test_a_file_that_is_missing_is_refused_and_named(signed: tuple[Path, Path], gemma3_host: Host):
    bundle, key = signed
    message = remove_program(bundle)
    refused(check(gemma3_host, bundle, key), message)


def test_a_signed_file_that_the_manifest_does_not_name_must_be_there_too(
    unsigned: Path, gemma3_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bundle = Path(shutil.copytree(unsigned, tmp_path / "toy"))
    (bundle / "notes.txt").write_text("signed as well")
    private, public = write_key(tmp_path, "ours")
    with monkeypatch.context() as patch:
        patch.setattr(signing, "_refuse_strangers", lambda bundle: None)
        sign(Bundle.open(bundle), private, None, ())
    assert check(gemma3_host, bundle, public).status == 0
    (bundle / "notes.txt").write_text("something else")
    refused(check(gemma3_host, bundle, public), "notes.txt is not what was signed")
    (bundle / "notes.txt").unlink()
    refused(check(gemma3_host, bundle, public), "notes.txt is missing")


def test_a_manifest_that_changed_is_refused(signed: tuple[Path, Path], gemma3_host: Host):
    bundle, key = signed
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"name": "toy"', '"name": "tox"'))
    refused(check(gemma3_host, bundle, key), "manifest.json is not what was signed")


def test_another_key_is_refused(signed: tuple[Path, Path], gemma3_host: Host, tmp_path: Path):
    bundle, _ = signed
    _, other = write_key(tmp_path, "theirs")
    refused(check(gemma3_host, bundle, other), f"by {other}: another key signed it; take")
    # Nor when the signature names that key: what it says of itself counts for nothing.
    value = json.loads((bundle / "model.sig").read_text())
    value["verificationMaterial"]["publicKey"].pop("hint")
    (bundle / "model.sig").write_text(json.dumps(value))
    refused(check(gemma3_host, bundle, other), "the signature is not valid")


def edit_statement(bundle: Path, edit: Callable[[dict], object]) -> None:
    path = bundle / "model.sig"
    value = json.loads(path.read_text())
    statement = json.loads(base64.b64decode(value["dsseEnvelope"]["payload"]))
    edit(statement)
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    value["dsseEnvelope"]["payload"] = payload
    path.write_text(json.dumps(value))


def test_a_statement_that_changed_is_refused(signed: tuple[Path, Path], gemma3_host: Host):
    bundle, key = signed
    edit_statement(bundle, lambda statement: statement.update(note="x"))
    refused(check(gemma3_host, bundle, key), "the signature is not valid")
    edit_statement(bundle, lambda s: s["predicate"]["resources"][0].update(name="../etc"))
    refused(check(gemma3_host, bundle, key), 'expected paths inside the bundle, got "../etc"')


def test_a_signature_that_leaves_a_file_out_is_refused(
    unsigned: Path, gemma3_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bundle = Path(shutil.copytree(unsigned, tmp_path / "toy"))
    private, public = write_key(tmp_path, "ours")
    with monkeypatch.context() as patch:
        patch.setattr(signing, "UNSIGNED", ("model.sig", "weights"))
        patch.setattr(signing, "_refuse_strangers", lambda bundle: None)
        sign(Bundle.open(bundle), private, None, ())
    refused(check(gemma3_host, bundle, public), "got one without weights/model.safetensors")


@pytest.mark.parametrize("text", ["", "[]", '{"dsseEnvelope": {"payload": "e30="}}', "[" * 99999])
def test_a_file_that_is_no_signature_is_refused(
    signed: tuple[Path, Path], gemma3_host: Host, text: str
):
    bundle, key = signed
    (bundle / "model.sig").write_text(text)
    refused(check(gemma3_host, bundle, key), "expected a signature by model-signing")


def test_a_signature_of_more_than_16_mib_is_not_parsed(
    signed: tuple[Path, Path], gemma3_host: Host
):
    bundle, key = signed
    (bundle / "model.sig").write_text("[" + "[]," * (2**24 // 3) + "[]]")
    refused(check(gemma3_host, bundle, key), "by model-signing of at most 16777216 bytes")


def test_no_signature_no_key_or_a_certificate_is_refused(
    unsigned: Path, signed: tuple[Path, Path], gemma3_host: Host, tmp_path: Path
):
    bundle, key = signed
    refused(check(gemma3_host, unsigned, key), "model.sig: expected a signature, got none")
    refused(check(gemma3_host, tmp_path / "none", key), "expected the folder of a bundle")
    refused(check(gemma3_host, bundle, tmp_path / "none.pub"), "it cannot be read; expected a PEM")
    (tmp_path / "text.pub").write_text("no key")
    refused(check(gemma3_host, bundle, tmp_path / "text.pub"), "it holds no public key")
    _, public = write_key(tmp_path, "koblitz", ec.SECP256K1())
    refused(check(gemma3_host, bundle, public), "its kind is another")
    private, certificate, root = write_certificates(tmp_path, "theirs")
    (bundle / "model.sig").unlink()
    sign(Bundle.open(bundle), private, certificate, ())
    refused(check(gemma3_host, bundle, root), "is a certificate, and libgemma3 verifies with")
    refused(check(gemma3_host, bundle, key), "got one with a certificate, which libgemma3 does")


def test_compiled_programs_are_not_part_of_what_is_signed(
    signed: tuple[Path, Path], gemma3_host: Host
):
    """They carry a code of their own: test_compiled.py."""
    bundle, key = signed
    assert gemma3_host(bundle, "--compile").status == 0
    require_signature(bundle, key)
    (report,) = check(gemma3_host, bundle, key).values
    assert report["compiled"]["programs"] == report["programs"]


def test_built_without_openssl_it_says_so(tmp_path: Path):
    disabled = "-DGEMMA3_SIGNATURES=OFF"
    subprocess.run(
        [BIN / "cmake", "-S", ROOT / "runtime" / "native", "-B", tmp_path / "build", "-G", "Ninja",
         f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}", f"-DPython3_EXECUTABLE={sys.executable}",
         disabled],
        check=True, capture_output=True,
    )  # fmt: skip
    rules = (tmp_path / "build" / "build.ninja").read_text()
    assert "no_signature.cc" in rules
    assert "/signature.cc" not in rules
    assert "libcrypto" not in rules
    source = tmp_path / "main.cc"
    source.write_text(
        '#include "signature.h"\n#include <cstdio>\n'
        "namespace gemma3 { class Bundle {}; }\n"
        'int main() try { gemma3::verify_signature({}, "k.pub", true); }\n'
        "catch (const std::exception &error) { std::puts(error.what()); return 2; }\n"
    )
    native = ROOT / "runtime" / "native"
    program = tmp_path / "main"
    subprocess.run(
        ["g++", "-std=c++17", f"-I{native / 'src'}", f"-I{native / 'include'}", source,
         native / "src" / "no_signature.cc", "-o", program],
        check=True,
    )  # fmt: skip
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == (
        "require_signature: this libgemma3 was built without OpenSSL and verifies no signature; "
        "check the bundle with gemma3-bundle verify --key k.pub, or build again with libssl-dev\n"
    )
