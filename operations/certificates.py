"""``askmesh certificates``: certificates for mutual TLS between llm_service and its callers."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAMES: Final = {
    "api_service": ("api_service", "api-service"),
    "worker_service": ("worker_service", "worker-service"),
    # As containers, Kubernetes and this machine call it.
    "llm_service": ("llm_service", "llm-service", "llm-service.askmesh.svc", "localhost", "127.0.0.1"),
    "nginx": ("nginx",),
    # `make run` gives all its services the same settings, and so one certificate.
    "make_run": ("api_service", "worker_service", "llm_service", "localhost", "127.0.0.1"),
}
"""The folders that ``make`` writes, and the names in the certificate of each."""

_AUTHORITY_DAYS: Final = 3_650
# A clock that is behind must not find a certificate from the future.
_BACKDATED: Final = timedelta(minutes=5)


@click.group()
def certificates() -> None:
    """Make certificates for gRPC, or look at some."""


@certificates.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write to.")
@click.option("--days", type=click.IntRange(1, 825), default=90, show_default=True, help="How long they are valid.")
def make(out: Path, days: int) -> None:
    """Make an authority, and a certificate of its for each service, for development.

    The authority of a folder is kept: making again replaces the services' certificates, and those who run use the new
    ones within seconds. In production let your own authority sign, and keep its key elsewhere.
    """
    issuer, key = _authority(out)
    for folder, names in NAMES.items():
        own = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed(names, own, issuer, key, days)
        _write(out / folder / "authority.pem", _pem(issuer))
        # The key first: services take neither until both fit together.
        _write(out / folder / "key.pem", _pem_of_key(own), secret=True)
        _write(out / folder / "certificate.pem", _pem(certificate))
        click.echo(f"{out / folder}: {', '.join(names)}, until {certificate.not_valid_after_utc:%Y-%m-%d}")
    click.echo(
        "For each service, set ASKMESH_GRPC_CERTIFICATE_FILE, ASKMESH_GRPC_KEY_FILE and ASKMESH_GRPC_AUTHORITY_FILE."
    )


@certificates.command()
@click.argument("files", type=click.Path(path_type=Path, exists=True, dir_okay=False), nargs=-1, required=True)
def show(files: Sequence[Path]) -> None:
    """Say whom the first certificate of each of the FILES names, and until when it is valid.

    The exit status is 1 if one of them is valid no longer, or not yet.
    """
    now = datetime.now(UTC)
    all_valid = True
    for file in files:
        try:
            certificate = x509.load_pem_x509_certificate(file.read_bytes())
        except ValueError:
            raise click.ClickException(f"{file} holds no certificate in PEM form") from None
        until = certificate.not_valid_after_utc
        valid = certificate.not_valid_before_utc <= now <= until
        all_valid = all_valid and valid
        names = ", ".join(_names_in(certificate)) or "nobody"
        click.echo(f"{file}: {names}, {'' if valid else 'NOT VALID, '}until {until:%Y-%m-%d %H:%M} UTC")
    if not all_valid:
        raise SystemExit(1)


def _authority(out: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_file, key_file = out / "authority.pem", out / "authority.key"
    if certificate_file.exists() and key_file.exists():
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise click.ClickException(f"{key_file} was not made by this command: name an empty folder")
        return x509.load_pem_x509_certificate(certificate_file.read_bytes()), key
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "askmesh development")])
    certificate = (
        _begun(subject, subject, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _pem_of_key(key), secret=True)
    _write(certificate_file, _pem(certificate))
    return certificate, key


def _signed(
    names: Sequence[str],
    own: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _begun(subject, issuer.subject, own.public_key(), days)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_in(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(file: Path, content: bytes, *, secret: bool = False) -> None:
    """Replace the file at once: whoever reads it finds the former or the new."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(file.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
    new.replace(file)
