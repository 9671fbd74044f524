"""gRPC between llm_service and its callers."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from foundation.settings.base import Group


class GrpcTlsSettings(Group):
    """Mutual TLS between llm_service and its callers: each has a certificate, and asks for the other's."""

    grpc_certificate_file: Path | None = Field(
        None,
        description="This process's certificate for gRPC, as PEM, followed by the chain to the authority. Switches"
        " mutual TLS on, together with the two files below; each is read again when it changes.",
    )
    grpc_key_file: Path | None = Field(None, description="The certificate's private key, as PEM without a password.")
    grpc_authority_file: Path | None = Field(
        None, description="Certificates of the authorities that may sign the other side's certificate, as PEM."
    )

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        files = (self.grpc_certificate_file, self.grpc_key_file, self.grpc_authority_file)
        if any(files) and not all(files):
            raise ValueError(
                "set ASKMESH_GRPC_CERTIFICATE_FILE, ASKMESH_GRPC_KEY_FILE and ASKMESH_GRPC_AUTHORITY_FILE, or none"
            )
        return self

    @property
    def files(self) -> tuple[Path, Path, Path] | None:
        """Authority, certificate and key; None without TLS."""
        if self.grpc_authority_file and self.grpc_certificate_file and self.grpc_key_file:
            return self.grpc_authority_file, self.grpc_certificate_file, self.grpc_key_file
        return None


class LlmClientSettings(Group):
    """How a service reaches llm_service."""

    llm_targets: str = Field(
        "127.0.0.1:50051",
        min_length=1,
        description="Addresses of llm_service, as host:port; several, separated by commas, are used in turn.",
    )
    llm_server_name: str = Field(
        "",
        description="Name in llm_service's certificate, if it is not the host in ASKMESH_LLM_TARGETS."
        " Needed with TLS and several targets.",
    )
