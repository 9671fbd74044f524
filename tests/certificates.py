"""Certificates as ``askmesh certificates make`` makes them."""

from pathlib import Path

from askmesh_client import TlsFiles
from click.testing import CliRunner

from foundation.settings import GrpcTlsSettings
from operations.certificates import certificates


def make_certificates(folder: Path) -> Path:
    """Make them, or make them again under the same authority; returns the folder."""
    made = CliRunner().invoke(certificates, ["make", "--out", str(folder)])
    assert made.exit_code == 0, made.output
    return folder


def tls_files(folder: Path, service: str) -> TlsFiles:
    """Of one service."""
    own = folder / service
    return TlsFiles(own / "authority.pem", own / "certificate.pem", own / "key.pem")


def tls_settings(folder: Path, service: str) -> GrpcTlsSettings:
    """The settings that name them."""
    authority, certificate, key = tls_files(folder, service)
    return GrpcTlsSettings(grpc_authority_file=authority, grpc_certificate_file=certificate, grpc_key_file=key)


def tls_environment(folder: Path, service: str) -> dict[str, str]:
    """The same as environment variables."""
    return {f"ASKMESH_{name.upper()}": str(file) for name, file in tls_settings(folder, service)}
