"""Certificates of the server, read again when they change."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.reload import Watched


def credentials(
    certificate: Path, key: Path, client_ca: Path | None, metrics: GatewayMetrics
) -> grpc.ServerCredentials:
    """TLS with a certificate chain and its key, both PEM. With `client_ca`, callers must present a certificate signed
    by one of its authorities. Raises OSError for a file that cannot be read or is invalid."""
    files = [certificate, key, *([client_ca] if client_ca else [])]

    def read() -> grpc.ServerCertificateConfiguration:
        _check(certificate, key, client_ca)
        authorities = client_ca.read_bytes() if client_ca else None
        return grpc.ssl_server_certificate_configuration([(key.read_bytes(), certificate.read_bytes())], authorities)

    watched = Watched("certificates", files, read, metrics)
    return grpc.dynamic_ssl_server_credentials(
        watched.get(), watched.get, require_client_authentication=client_ca is not None
    )


def _check(certificate: Path, key: Path, client_ca: Path | None) -> None:
    """Raises OSError if the files are no certificates, or the key does not match: gRPC itself would only stop
    responding."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise OSError(f"{certificate} is no PEM certificate, or {key} not its key: {error.reason}") from None
    try:
        if client_ca is not None:
            context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise OSError(f"{client_ca} holds no PEM certificates: {error.reason}") from None
