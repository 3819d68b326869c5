"""Who made a bundle: signatures over its files with OpenSSF model-signing, without a network.

A signature covers manifest.json and every file it lists. It does not cover `compiled/`, which
machines write after the export and which must carry a code made with the user's own key, nor
other files of the folder, which no reader looks at.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundle import Bundle, read_manifest
from .errors import ArtifactError, UsageError
from .interruption import unfinished
from .paths import MANIFEST, is_bundle_path, resolve_inside

if TYPE_CHECKING:
    from model_signing import hashing

SIGNATURE = "model.sig"
"""Where the signature stands in the bundle, beside manifest.json."""
UNSIGNED = (SIGNATURE, "compiled")
"""What is never signed: the signature itself, and code compiled after the export."""
_MAX_SIGNATURE_BYTES = 2**24
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def sign(bundle: Bundle, key: Path, certificate: Path | None, chain: tuple[Path, ...]) -> Path:
    """Write the signature of `bundle` with the private key in PEM file `key`; returns its path.

    With `certificate` the signature carries it and `chain`, the certificates between it and
    the root, and is verified with that root. Without, it is verified with the public key.

    Raises:
        UsageError: a key or certificate that cannot be used, an encrypted key, files in the
            bundle that the signature would cover and the manifest does not know.
        ArtifactError: contents that are not what the manifest records.
    """
    signing = _library().signing
    partial = bundle.root / f".{SIGNATURE}.partial"
    with contextlib.suppress(OSError):  # what a killed signer left; writing will tell of others
        partial.unlink(missing_ok=True)
    bundle.verify()
    _refuse_strangers(bundle)
    config = signing.Config().set_hashing_config(_hashing())
    with _explained(key if certificate is None else certificate, "sign with"):
        if certificate is None:
            config.use_elliptic_key_signer(private_key=key)
        else:
            # The library reads at least one; the signer's own adds nothing and takes nothing.
            config.use_certificate_signer(
                private_key=key, signing_certificate=certificate,
                certificate_chain=chain or (certificate,),
            )  # fmt: skip
    path = bundle.root / SIGNATURE
    try:
        with unfinished(partial), _stdout_to_stderr():
            config.sign(bundle.root, partial)
            partial.replace(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{bundle.root}: cannot be signed: {_reason(error)}; expected a folder that can be "
            "written, of files and no links"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def require_signature(root: Path, trusted: Path) -> None:
    """Refuse the bundle at `root` unless whoever `trusted` names signed it as it is.

    `trusted` is a PEM file: a public key, or the root certificates that the signer's
    certificate must lead to. Every file of the bundle is read; nothing of it is used.

    Raises:
        ArtifactError: no signature, one by another key, or files that are not what was signed.
        UsageError: `trusted` cannot be read as a key or certificate.
    """
    manifest = read_manifest(root)
    covered = {MANIFEST, *(record.path for record in manifest.files)}
    where = root / SIGNATURE
    if not where.is_file():
        raise ArtifactError(
            f"{where}: expected a signature, got none; sign the bundle with gemma3-bundle sign, "
            "or take it from whoever made it"
        )
    resolve_inside(root, SIGNATURE)
    config = _library().verifying.Config().set_hashing_config(_hashing())
    config.set_ignore_unsigned_files(True)
    with _explained(trusted, "verify with"):
        certificate = _CERTIFICATE in trusted.read_bytes()
        if certificate:
            config.use_certificate_verifier(certificate_chain=[trusted])
        else:
            config.use_elliptic_key_verifier(public_key=trusted)
    signed, by_key = _read_claims(where)
    if certificate == by_key:
        raise ArtifactError(
            f"{where}: expected a signature with a {'certificate' if certificate else 'key'}, as "
            f"{trusted} is one, got one with a {'key' if by_key else 'certificate'}; pass "
            f"{'the public key of the signer' if by_key else 'the root of the certificate'}"
        )
    if missing := sorted(covered - signed):
        raise ArtifactError(
            f"{where}: expected a signature of every file of the bundle, got one without "
            f"{missing[0]}; sign the bundle again with gemma3-bundle sign"
        )
    try:
        with _stdout_to_stderr():
            config.verify(root, where)
    except Exception as error:  # the library, its cryptography and OpenSSL each have their own
        raise ArtifactError(
            f"{where}: not a signature of this bundle by {trusted}: {_reason(error)}; take the "
            "bundle again from whoever made it, or check which key signed it"
        ) from error


def _hashing() -> hashing.Config:
    """SHA-256 of whole files; links are refused, what readers ignore is left out."""
    config = _library().hashing.Config().use_file_serialization(allow_symlinks=False)
    return config.set_ignored_paths(paths=UNSIGNED, ignore_git_paths=False)


def _read_claims(where: Path) -> tuple[set[str], bool]:
    """What the signature file claims to cover, and whether with a key and no certificate.

    The library checks the claims themselves afterwards.
    """
    try:
        if where.stat().st_size > _MAX_SIGNATURE_BYTES:
            raise ValueError("too large")
        bundle = json.loads(where.read_bytes())
        by_key = "publicKey" in bundle["verificationMaterial"]
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True))
        paths = {str(item["name"]) for item in statement["predicate"]["resources"]}
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise ArtifactError(
            f"{where}: expected a signature by model-signing, got another file; sign the bundle "
            "again with gemma3-bundle sign"
        ) from error
    for path in paths:
        if not is_bundle_path(path):
            raise ArtifactError(
                f"{where}: expected paths inside the bundle, got {path}; sign the bundle again "
                "with gemma3-bundle sign"
            )
    return paths, by_key


def _refuse_strangers(bundle: Bundle) -> None:
    """Nobody should vouch for files that nobody described."""
    known = {MANIFEST, *(record.path for record in bundle.manifest.files)}
    for path in sorted(bundle.root.rglob("*")):
        name = path.relative_to(bundle.root).as_posix()
        if name.split("/")[0] in UNSIGNED or (path.is_dir() and not path.is_symlink()):
            continue
        if name not in known:
            raise UsageError(
                f"{bundle.root}: expected only files of the manifest, got {name}; remove it and "
                "sign again"
            )


def _library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise UsageError(
            f"signatures need the library model-signing ({error}); install gemma3-export[sign]"
        ) from error
    return model_signing


@contextlib.contextmanager
def _explained(file: Path, purpose: str) -> Iterator[None]:
    try:
        yield
    except UsageError:  # says what is wrong already
        raise
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"{file}: cannot {purpose} it: {_reason(error)}; expected PEM files of an unencrypted "
            "elliptic-curve key (P-256, P-384 or P-521) and its certificates"
        ) from error


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """The library prints warnings; stdout belongs to the command."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _reason(error: Exception) -> str:
    # The library shows a list of sentences with raw digests; the file is what matters.
    changed = re.search(
        r"Missing files in model .*?: ([^,'\"]+)|Hash mismatch for \\?'([^'\\]+)", str(error)
    )
    if changed:
        missing, other = changed.groups()
        return f"{missing} is missing" if missing else f"{other} is not what was signed"
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split())[:300]
