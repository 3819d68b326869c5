"""`gemma3-run --server` as a light client: TLS, headers, and no more of a bundle than it needs."""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import shutil
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.codec import encode, format_json
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.artifacts.manifest import SavedModelRecord, Signature
from gemma3_export.artifacts.serving import messages
from gemma3_export.artifacts.serving.signatures import MODEL_NAME, VERSION_FOLDER, signatures
from gemma3_export.runtime.serving.client import connect, parse_address
from gemma3_export.runtime.serving.security import TOKEN_VARIABLE, Security, read_headers

from ..runtime.conftest import Command, gemma3_run, run_python  # noqa: F401
from ..runtime.toy_bundle import Toy, make_toy_bundle

ONE = ("--tokens", "2,17", "--max-new-tokens", "3", "--json")


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate that vouches for itself: localhost and 127.0.0.1."""

    path: Path
    key: Path


def make_certificate(folder: Path, name: str) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    found = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    found.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    found.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )  # fmt: skip
    return found


@dataclass
class Server:
    """A stand-in of a served model that says token 9 for ever, and what it was told."""

    grpc: str = ""
    rest: str = ""
    headers: list[dict[str, str]] = field(default_factory=list)

    def answer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        limit = inputs["max_new_tokens"]
        return {
            "tokens": np.full((len(limit), limit.max()), 9, np.int32),
            "counts": limit.astype(np.int32),
            "finish_reasons": np.array([b"length"] * len(limit), object),
        }


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("server"), "server")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("client"), "client")


@pytest.fixture(scope="module", params=[False, True], ids=["anyone", "with a certificate"])
def server(
    request: pytest.FixtureRequest, own: Certificate, client: Certificate
) -> Iterator[Server]:
    """By gRPC and REST, both with TLS; it may ask its clients for their certificate."""
    found = Server()

    class Service(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails):
            return grpc.unary_unary_rpc_method_handler(self.predict)

        def predict(self, data: bytes, context: grpc.ServicerContext) -> bytes:
            found.headers.append({k: str(v) for k, v in context.invocation_metadata()})
            name, signature, inputs = messages.decode_request(data)
            return messages.encode_response(name, signature, found.answer(inputs))

    credentials = grpc.ssl_server_credentials(
        [(own.key.read_bytes(), own.path.read_bytes())],
        client.path.read_bytes() if request.param else None, request.param,
    )  # fmt: skip
    service = grpc.server(ThreadPoolExecutor(2))
    service.add_generic_rpc_handlers((Service(),))
    found.grpc = f"grpcs://localhost:{service.add_secure_port('127.0.0.1:0', credentials)}"
    service.start()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own.path, own.key)
    if request.param:
        context.load_verify_locations(client.path)
        context.verify_mode = ssl.CERT_REQUIRED
    rest = ThreadingHTTPServer(("127.0.0.1", 0), _rest(found))
    rest.socket = context.wrap_socket(rest.socket, server_side=True)
    found.rest = f"https://localhost:{rest.server_address[1]}"
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    yield found
    service.stop(None)
    rest.shutdown()
    rest.server_close()


def _rest(found: Server) -> type[BaseHTTPRequestHandler]:
    class Rest(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.headers.append({name.lower(): value for name, value in self.headers.items()})
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            inputs = {name: np.array(value) for name, value in body["inputs"].items()}
            outputs = {
                name: [one.decode() for one in value] if value.dtype == object else value.tolist()
                for name, value in found.answer(inputs).items()
            }
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"outputs": outputs}).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    return Rest


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a manifest and a tokenizer, and nothing else of its bundle."""
    folder = tmp_path_factory.mktemp("light")
    bundle = Bundle.open(make_toy_bundle(folder / "whole", Toy(batch=(1,), prefill=(4,))))
    record = SavedModelRecord(VERSION_FOLDER, 1, 0, signatures(bundle.manifest, 0))
    (folder / "light").mkdir()
    manifest = replace(bundle.manifest, saved_model=record)
    (folder / "light" / "manifest.json").write_text(format_json(encode(manifest)))
    shutil.copytree(bundle.root / "tokenizer", folder / "light" / "tokenizer")
    return folder / "light"


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_server_is_asked_through_tls_with_headers(
    server: Server, light: Path, own: Certificate, client: Certificate, kind: str,
    gemma3_run: Command, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
):  # fmt: skip
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    status, out, err = gemma3_run(
        light, "--server", getattr(server, kind), "--server-ca", own.path, "--server-cert",
        client.path, "--server-key", client.key, "--server-header", "X-Team: blue", *ONE,
    )  # fmt: skip
    assert (status, err) == (0, "")
    value = json.loads(out)
    assert value["tokens"] == [9, 9, 9]
    assert list(value["stats"]) == ["client_first_answer_s", "client_answered_s", "client_tok_s"]
    assert 0 < value["stats"]["client_first_answer_s"] <= value["stats"]["client_answered_s"]
    told = server.headers[-1]
    assert (told["authorization"], told["x-team"]) == ("Bearer secret", "blue")


def test_statistics_are_those_of_the_client(
    server: Server, light: Path, own: Certificate, client: Certificate,
    gemma3_run: Command,  # noqa: F811
):  # fmt: skip
    status, _, err = gemma3_run(
        light, "--server", server.grpc, "--server-ca", own.path, "--server-cert", client.path,
        "--server-key", client.key, "--prompt", "the fox", "--max-new-tokens", "3", "--stats",
    )  # fmt: skip
    assert status == 0
    names = [line.split("  ")[0] for line in err.splitlines()]
    assert names == ["first answer", "all answered", "new tokens"]
    assert err.splitlines()[2].endswith("3 tokens")


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_certificate_that_nobody_trusts_is_one_line(server: Server, light: Path, kind: str):
    """In a process of its own: gRPC says more on stderr where a server of its own runs."""
    code = "from gemma3_export.runtime.commands.run import main; main()"
    result = run_python(code, light, "--server", getattr(server, kind), *ONE)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: --server {getattr(server, kind)}: ")
    assert "its certificate is not trusted" in result.stderr
    assert "pass its root with --server-ca" in result.stderr
    assert result.stderr.count("\n") == 1


def test_neither_jax_nor_the_rest_of_a_bundle_is_needed(
    server: Server, light: Path, own: Certificate, client: Certificate
):
    code = (
        "import sys\n"
        "from gemma3_export.runtime.commands.run import main\n"
        "try: main()\n"
        "finally: print({'jax', 'jaxlib', 'tensorflow'} & {*sys.modules})\n"
    )
    result = run_python(
        code, light, "--server", server.rest, "--server-ca", own.path, "--server-cert",
        client.path, "--server-key", client.key, "--prompt", "the fox", *ONE[2:],
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    answer, modules = result.stdout.splitlines()
    assert json.loads(answer)["tokens"] == [9, 9, 9]
    assert modules == "set()"
    assert sorted(path.name for path in light.iterdir()) == ["manifest.json", "tokenizer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--server", "grpcs://h:1", "--server-ca", "{none}"],
            "--server-ca: {none} cannot be",
        ),
        (
            ["--server", "https://h:1", "--server-ca", "{text}"],
            "--server-ca: {text} cannot be",
        ),
        (["--server", "https://h:1", "--server-cert", "{text}"], "--server-cert: {text} cannot be"),
        (
            ["--server", "h:1", "--server-ca", "{text}"],
            "--server-ca needs TLS: expected --server",
        ),
        (["--server-ca", "{text}"], "--server-ca needs --server: it says how to speak to one"),
        (
            ["--server", "https://h:1", "--server-key", "{text}"],
            "--server-key needs --server-cert: it is the certificate's",
        ),
        (
            ["--server", "h:1", "--server-header", "Authorization Bearer x"],
            "--server-header: expected 'NAME: VALUE' in plain ASCII, such as 'Authorization: Be",
        ),
        (["--server", "ftp://h:1"], "--server: expected HOST:PORT for gRPC or http://HOST:PORT"),
    ],
)
def test_what_no_connection_can_be_made_with_is_one_line(
    light: Path, tmp_path: Path, arguments: list[str], message: str,
    gemma3_run: Command,  # noqa: F811
):  # fmt: skip
    (tmp_path / "text").write_text("no certificate")
    names = {"text": str(tmp_path / "text"), "none": str(tmp_path / "none")}
    status, out, err = gemma3_run(light, *(part.format(**names) for part in arguments), *ONE)
    assert (status, out) == (2, "")
    assert message.format(**names) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "target", "encrypted", "private"),
    [
        ("h:1", "h:1", False, False),
        ("grpc://localhost:1", "localhost:1", False, True),
        ("127.0.0.1:1", "127.0.0.1:1", False, True),
        ("127.example.com:1", "127.example.com:1", False, False),
        ("grpcs://h:1/other", "grpcs://h:1", True, True),
        ("http://[::1]:1", "http://[::1]:1", False, True),
        ("https://h:1", "https://h:1", True, True),
    ],
)
def test_an_address_says_what_is_spoken(text: str, target: str, encrypted: bool, private: bool):
    address = parse_address(text)
    assert (address.target, address.is_encrypted, address.is_private) == (
        target, encrypted, private,
    )  # fmt: skip


def test_a_token_of_the_environment_is_sent_in_private_only():
    environment: dict[str, Any] = {TOKEN_VARIABLE: "secret"}
    bearer = (("authorization", "Bearer secret"),)
    assert read_headers([], True, environment) == bearer
    assert read_headers([], False, {}) == ()
    own = ["Authorization: Basic x"]
    assert read_headers(own, False, environment) == (("authorization", "Basic x"),)
    with pytest.raises(UsageError, match="is not sent in the clear: expected grpcs://") as caught:
        read_headers([], False, environment)
    assert "secret" not in str(caught.value)


def test_a_server_that_sends_its_callers_elsewhere_is_refused(
    light: Path,
    gemma3_run: Command,  # noqa: F811
):
    """Else headers with a secret in them would go where somebody else says."""
    paths = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/other")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    rest = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{rest.server_address[1]}"
    status, _, err = gemma3_run(light, "--server", address, *ONE)
    rest.shutdown()
    rest.server_close()
    assert (status, paths) == (2, ["/v1/models/gemma3:predict"])
    assert f"--server {address}: HTTP 302" in err


@pytest.mark.parametrize(
    ("address", "headers", "message"),
    [
        ("http://localhost:1", [("a", "1"), ("a", "2")], "expected each name once"),
        ("http://localhost:1", [("content-type", "x")], "no content-type, for REST"),
        ("localhost:1", [("x!y", "1")], "expected a name of letters, digits and -_. for gRPC"),
        ("localhost:1", [("a-bin", "1")], "without -bin at its end, got 'a-bin'"),
    ],
)
def test_headers_that_a_protocol_cannot_send_are_refused(
    address: str, headers: list[tuple[str, str]], message: str
):
    with pytest.raises(UsageError, match=re.escape(message)):
        connect(parse_address(address), Security(headers=tuple(headers)))


def test_a_proxy_of_the_environment_gets_nothing_that_stays_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
):
    """Whoever listens as the proxy would read the secret along."""
    asked: list[str] = []

    class Listens(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Listens) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    there, proxy = (server.server_address[1] for server in servers)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
    monkeypatch.delenv("no_proxy", raising=False)
    client = connect(parse_address(f"http://localhost:{there}"), Security())
    with pytest.raises(UsageError):
        client.predict(Signature("generate", (), ()), {})
    for server in servers:
        server.shutdown()
        server.server_close()
    assert asked == [f"/v1/models/{MODEL_NAME}:predict"]  # by the proxy it would be a whole URL
