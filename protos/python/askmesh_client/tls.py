"""Certificates for mutual TLS that are read again when their files change."""

import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""How often, at most, the files are looked at. It takes about 10 us."""


class TlsFiles(NamedTuple):
    """Where one side's certificates are, as PEM."""

    authority: Path
    """Certificates of those who may have signed the other side's."""
    certificate: Path
    """This side's own certificate, and after it those that lead to the authority."""
    key: Path
    """The private key of the certificate, without a password."""


class Pem(NamedTuple):
    """What the files hold."""

    authority: bytes
    certificate: bytes
    key: bytes


class CertificatesError(ValueError):
    """The files cannot be used. The message names the file and what is wrong with it, never what it holds."""


class Certificates:
    """The certificates of one side. Threads may share it, as the handshakes of a server do."""

    def __init__(self, files: TlsFiles, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises CertificatesError."""
        self._files = files
        self._clock = clock
        self._seen = _state(files)
        self._pem = _read(files)
        self._look_at = clock() + LOOK_SECONDS
        self._turn = threading.Lock()

    @property
    def pem(self) -> Pem:
        """As last read."""
        return self._pem

    def renewed(self) -> Pem | None:
        """The certificates if the files hold other ones than before; None where they do not.

        Files that do not fit together, as while they are being replaced one after another, change nothing: the former
        certificates stay, the log says why, and the next change is looked at again.
        """
        with self._turn:
            now = self._clock()
            if now < self._look_at:
                return None
            self._look_at = now + LOOK_SECONDS
            return self._look()

    def _look(self) -> Pem | None:
        state = _state(self._files)
        if state == self._seen:
            return None
        try:
            pem = _read(self._files)
        except CertificatesError as error:
            logger.warning("the former certificates stay: %s", error)
            self._seen = state
            return None
        if _state(self._files) != state:
            return None  # they change while they are read
        self._seen = state
        if pem == self._pem:
            return None
        logger.info("certificates are read again: %s", self._files.certificate)
        self._pem = pem
        return pem


def _state(files: TlsFiles) -> tuple[tuple[int, int, int] | None, ...]:
    """Changes whenever a file is written or replaced, also through the symbolic links of Kubernetes' Secrets."""
    return tuple(_state_of(file) for file in files)


def _state_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(files: TlsFiles) -> Pem:
    for file in files:
        try:
            file.read_bytes()
        except OSError as error:
            raise CertificatesError(f"{file} cannot be read: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(files.authority)
    except ssl.SSLError:
        raise CertificatesError(f"{files.authority} holds no certificate in PEM form") from None
    try:
        # Without the password it would ask for one at the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except (ssl.SSLError, ValueError, TypeError) as error:
        reason = getattr(error, "reason", None) or "a key with a password"
        raise CertificatesError(
            f"{files.certificate} and {files.key} are not a certificate and its key without a password,"
            f" as PEM ({reason})"
        ) from None
    return Pem(*(file.read_bytes() for file in files))
