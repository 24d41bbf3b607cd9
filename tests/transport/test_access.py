"""Who may call: TLS, certificates of callers, tokens and their rights, all read anew when their files change."""

import datetime
import hashlib
import ipaddress
import time

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lightwell.v1 import explainer_pb2_grpc, models_pb2
from lightwell_server.transport import access
from tests.serving import bundled, served

SERVING = health_pb2.HealthCheckResponse.SERVING
EXPLAIN, ADMIN = "a-token-that-explains", "a-token-that-looks-into"


class Authority:
    """Signs certificates for 127.0.0.1 and for callers by name."""

    def __init__(self, name: str):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._signed(self.name, self.key.public_key(), authority=True)

    def _signed(self, name, key, authority=False):
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self):
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name):
        """A certificate and its key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        plain = serialization.NoEncryption()
        return (
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain),
        )


def lists_models(channel, token=None, timeout=10):
    stub = explainer_pb2_grpc.ModelServiceStub(channel)
    metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
    return stub.ListModels(models_pb2.ListModelsRequest(), metadata=metadata, timeout=timeout).models


def refused(channel, token=None):
    with pytest.raises(grpc.RpcError) as caught:
        lists_models(channel, token)
    return caught.value.code()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("credentials")
    (folder / "tokens.toml").write_text(
        f'[team-a]\ntoken = "{EXPLAIN}"\n\n[operator]\nsha256 = "{hashlib.sha256(ADMIN.encode()).hexdigest()}"\n'
        'rights = ["explain", "admin"]\n'
    )
    return folder


@pytest.fixture(scope="module")
def server(files):
    with served(bundled(), "--tokens", str(files / "tokens.toml"), "--threads", "1") as server:
        yield server


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def test_a_known_token_is_let_in(channel):
    assert lists_models(channel, EXPLAIN) and lists_models(channel, ADMIN)


@pytest.mark.parametrize("token", [None, "", "a-token-nobody-has", EXPLAIN + "x", "ü" * 20])
def test_others_are_not(channel, token):
    stub = explainer_pb2_grpc.ModelServiceStub(channel)
    metadata = (("authorization", f"Bearer {token}".encode() if token and not token.isascii() else f"Bearer {token}"),)
    if token and not token.isascii():
        metadata = (("authorization-bin", metadata[0][1]),)  # only such metadata may hold other bytes
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListModels(models_pb2.ListModelsRequest(), metadata=metadata if token is not None else ())
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_strangers_are_refused_before_their_request_is_read(server):
    """Their bytes are not even looked at, as a message or otherwise."""
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/lightwell.v1.ExplainerService/Explain")(b"\xff no message " * 1000)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    names = dict(caught.value.trailing_metadata())
    assert names["x-request-id"] and "grpc-status-details-bin" in names


def test_health_needs_no_token_and_reflection_an_administrators(channel):
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(service="")).status == SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    def services(token):
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        return list(stub.ServerReflectionInfo(asked, metadata=(("authorization", f"Bearer {token}"),)))

    assert services(ADMIN)[0].list_services_response.service
    with pytest.raises(grpc.RpcError) as caught:
        services(EXPLAIN)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_tokens_are_read_again_when_the_file_changes(server, files, channel):
    text = (files / "tokens.toml").read_text()
    try:
        (files / "tokens.toml").write_text(text + '\n[team-b]\ntoken = "a-token-for-team-b"\n')
        until(lambda: lists_models(channel, "a-token-for-team-b"))
        (files / "tokens.toml").write_text("this is no TOML")
        time.sleep(1.5)
        assert lists_models(channel, "a-token-for-team-b")  # what was read last stays in force
    finally:
        (files / "tokens.toml").write_text(text)
    until(lambda: refused(channel, "a-token-for-team-b") is grpc.StatusCode.UNAUTHENTICATED)


def until(true, seconds=10):
    """Waits until a call neither fails nor says no."""
    end = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except (grpc.RpcError, pytest.fail.Exception):
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "names no caller"),
        ('[a]\ntoken = "short"', "token"),
        ('[a]\nrights = ["explain"]', "one of token and sha256"),
        ('[a]\ntoken = "long-enough-for-this"\nrights = ["everything"]', "rights"),
        ('[a]\ntoken = "long-enough-for-this"\nrigths = ["explain"]', "rigths"),
        ('[a]\ntokn = "long-enough-for-this"', "tokn"),
        ('[a]\nsha256 = "12"', "sha256"),
        ('[a]\ntoken = "long-enough-for-this"\n[b]\ntoken = "long-enough-for-this"', "a and b have the same token"),
    ],
)
def test_a_bad_file_of_tokens_is_told(tmp_path, text, wrong):
    (tmp_path / "tokens.toml").write_text(text)
    with pytest.raises(ValueError, match=wrong) as caught:
        access.read(tmp_path / "tokens.toml")
    assert "long-enough-for-this" not in str(caught.value) and "short" not in str(caught.value)


def test_tls_with_certificates_of_callers_and_new_ones_without_a_restart(tmp_path):
    old, new, callers = Authority("old"), Authority("new"), Authority("callers")
    names = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key", "ca")}

    def install(authority):
        certificate, key = authority.issue("server")
        names["certificate"].write_bytes(certificate)
        names["key"].write_bytes(key)

    install(old)
    names["ca"].write_bytes(callers.pem)
    certificate, key = callers.issue("team-a")
    flags = ["--tls-certificate", names["certificate"], "--tls-key", names["key"], "--tls-client-ca", names["ca"]]
    with served(bundled(), *map(str, flags), "--threads", "1") as server:

        def asks(authority, *shown):
            credentials = grpc.ssl_channel_credentials(authority.pem, *shown)
            with grpc.secure_channel(server.address, credentials) as channel:
                return lists_models(channel, timeout=5)

        def refuses(authority, *shown):
            with pytest.raises(grpc.RpcError) as caught:
                asks(authority, *shown)
            return caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

        assert asks(old, key, certificate)
        assert refuses(old)  # no certificate shown
        assert refuses(new, key, certificate)  # the server is not who it was taken for
        stranger, stranger_key = Authority("strangers").issue("team-a")
        assert refuses(old, stranger_key, stranger)
        with grpc.insecure_channel(server.address) as plain:
            assert refused(plain) is grpc.StatusCode.UNAVAILABLE
        install(new)
        until(lambda: asks(new, key, certificate))
        assert refuses(old, key, certificate)


@pytest.mark.parametrize("broken", ["certificate", "key"])
def test_a_server_does_not_start_with_a_broken_certificate(tmp_path, broken):
    certificate, key = Authority("one").issue("server")
    (tmp_path / "certificate.pem").write_bytes(certificate if broken != "certificate" else b"nothing")
    (tmp_path / "key.pem").write_bytes(key if broken != "key" else b"nothing")
    flags = ["--tls-certificate", str(tmp_path / "certificate.pem"), "--tls-key", str(tmp_path / "key.pem")]
    with pytest.raises(OSError, match="certificate"), served(bundled(), *flags):
        pass


def test_health_can_be_asked_in_plaintext_beside_tls(tmp_path):
    from tests.server.test_service import free_port

    certificate, key = Authority("one").issue("server")
    (tmp_path / "certificate.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    port = free_port()
    flags = ["--tls-certificate", tmp_path / "certificate.pem", "--tls-key", tmp_path / "key.pem"]
    with (
        served(bundled(), *map(str, flags), "--health-address", f"127.0.0.1:{port}"),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service="shapes")).status == SERVING
        assert refused(channel) is grpc.StatusCode.UNIMPLEMENTED
