"""How a server is told who asks, and how it is known to be the right one: TLS and headers."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...artifacts.errors import UsageError

TOKEN_VARIABLE = "GEMMA3_SERVER_TOKEN"
"""Environment variable of a secret, sent as `Authorization: Bearer`: it does not show in
lists of processes."""
_AUTHORIZATION = "authorization"
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True)
class Security:
    """Certificates and headers of every call; the default is the system's roots and no header."""

    ca: Path | None = None
    """Roots (PEM) that the server's certificate must lead to, instead of the system's."""
    certificate: Path | None = None
    """The client's own (PEM), with `key`, for servers that ask for one."""
    key: Path | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Names in small letters, and values."""

    def context(self) -> ssl.SSLContext:
        """What TLS connections are made with.

        Raises:
            UsageError: a file cannot be read, or is no certificate or key.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise _unusable("--server-ca", self.ca, error) from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except (OSError, ssl.SSLError) as error:
                raise _unusable("--server-cert", self.certificate, error) from error
        return context

    def roots(self) -> bytes | None:
        """The trusted certificates (PEM); None where the system has none to show."""
        if self.ca is not None:
            return self.ca.read_bytes()
        found = self.context().get_ca_certs(binary_form=True)
        return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode() or None


def read_headers(
    lines: Sequence[str], secure: bool, environment: Mapping[str, str] = os.environ
) -> tuple[tuple[str, str], ...]:
    """`NAME: VALUE` of each line, and the token of the environment unless they have another.

    Args:
        lines: what --server-header says.
        secure: whether they go through TLS, or no further than this machine.

    Raises:
        UsageError: one is no header, or the environment's token would be sent in the clear. It
            does not repeat values, which may be secret.
    """
    headers = []
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise UsageError(
                f"--server-header: expected 'NAME: VALUE' in plain ASCII, such as 'Authorization: "
                f"Bearer ...'; number {number} is not one"
            )
        headers.append((name.lower(), value))
    token = environment.get(TOKEN_VARIABLE, "")
    if not token or any(name == _AUTHORIZATION for name, _ in headers):
        return tuple(headers)
    if not _VALUE.fullmatch(token):
        raise UsageError(f"{TOKEN_VARIABLE}: expected a token in plain ASCII, got something else")
    if not secure:
        raise UsageError(
            f"{TOKEN_VARIABLE} is not sent in the clear: expected grpcs://HOST:PORT or "
            f"https://HOST:PORT after --server; name one, or unset {TOKEN_VARIABLE}"
        )
    return (*headers, (_AUTHORIZATION, f"Bearer {token}"))


def _unusable(flag: str, path: Path | None, error: Exception) -> UsageError:
    # A UsageError that names a file of the wrong kind; ssl says NO_CERTIFICATE_OR_CRL_FOUND.
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(f"{flag}: {path} cannot be used ({reason}); name a PEM file")
