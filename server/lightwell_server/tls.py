"""Certificates of the server, read anew when they change."""

from __future__ import annotations

from pathlib import Path

import grpc

from lightwell_server.watched import Watched


def credentials(certificate: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """TLS with a certificate chain and its key, both PEM; with `client_ca`, callers must show a certificate that one
    of its authorities has signed. Raises OSError for a file that cannot be read."""
    files = [certificate, key, *([client_ca] if client_ca else [])]

    def read() -> grpc.ServerCertificateConfiguration:
        authorities = client_ca.read_bytes() if client_ca else None
        return grpc.ssl_server_certificate_configuration([(key.read_bytes(), certificate.read_bytes())], authorities)

    watched = Watched("certificates", files, read)
    return grpc.dynamic_ssl_server_credentials(
        watched.get(), watched.get, require_client_authentication=client_ca is not None
    )
