import shutil
from pathlib import Path

import pytest
from askmesh_client import Certificates, CertificatesError, GenerationClient
from askmesh_client.channel import check_connection
from askmesh_client.tls import LOOK_SECONDS
from cryptography.hazmat.primitives import serialization

from tests.certificates import make_certificates, tls_files


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "certificates"))


def test_files_that_stay_are_not_read_again(folder: Path) -> None:
    clock = Clock()
    certificates = Certificates(tls_files(folder, "api_service"), clock)
    clock.now += LOOK_SECONDS
    assert certificates.renewed() is None


def test_replaced_files_are_read_once_and_not_before_it_is_time(folder: Path) -> None:
    clock = Clock()
    certificates = Certificates(tls_files(folder, "api_service"), clock)
    before = certificates.pem
    make_certificates(folder)
    assert certificates.renewed() is None
    clock.now += LOOK_SECONDS
    renewed = certificates.renewed()
    assert renewed is not None
    assert renewed != before
    assert renewed == certificates.pem
    clock.now += LOOK_SECONDS
    assert certificates.renewed() is None


@pytest.mark.parametrize("file", ["key.pem", "certificate.pem", "authority.pem"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None])
def test_files_that_do_not_fit_together_change_nothing_until_they_do(
    folder: Path, file: str, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    certificates = Certificates(tls_files(folder, "api_service"), clock)
    before = certificates.pem
    broken = folder / "api_service" / file
    sound = broken.read_bytes()
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    for _ in range(2):
        clock.now += LOOK_SECONDS
        assert certificates.renewed() is None
    assert certificates.pem == before
    (told,) = [record.getMessage() for record in caplog.records]
    assert str(broken) in told
    broken.write_bytes(sound)
    make_certificates(folder)
    clock.now += LOOK_SECONDS
    assert certificates.renewed() is not None


def test_a_key_of_another_certificate_is_refused_and_not_shown(folder: Path) -> None:
    shutil.copy(folder / "llm_service" / "key.pem", folder / "api_service" / "key.pem")
    with pytest.raises(CertificatesError, match="are not a certificate and its key") as refused:
        Certificates(tls_files(folder, "api_service"))
    assert "PRIVATE KEY" not in str(refused.value)


def test_a_key_with_a_password_is_refused_without_asking_for_it(folder: Path) -> None:
    file = folder / "api_service" / "key.pem"
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"correct horse")
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    with pytest.raises(CertificatesError, match="without a password"):
        Certificates(tls_files(folder, "api_service"))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertificatesError, match=r"authority\.pem cannot be read: No such file"):
        check_connection("127.0.0.1:1", tls_files(tmp_path, "api_service"))


async def test_several_targets_need_the_name_in_their_certificates(folder: Path) -> None:
    files = tls_files(folder, "api_service")
    with pytest.raises(ValueError, match="the name in their certificates has to be given"):
        check_connection("127.0.0.1:1,127.0.0.1:2", files)
    with pytest.raises(ValueError, match="the name in their certificates has to be given"):
        GenerationClient("127.0.0.1:1,127.0.0.1:2", tls=files)
    check_connection("127.0.0.1:1,127.0.0.1:2", files, "llm_service")
    check_connection("127.0.0.1:1,127.0.0.1:2")
