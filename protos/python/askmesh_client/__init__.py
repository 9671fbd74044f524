"""Typed asyncio client of askmesh's llm_service. The messages are those of ``askmesh.llm.v1``."""

from askmesh_client.client import GENERATION_SECONDS, Event, GenerationClient, GenerationStream
from askmesh_client.errors import (
    AccessDeniedError,
    CannotContinueError,
    DeadlineExceededError,
    FieldViolation,
    GenerationCancelledError,
    GenerationError,
    GenerationInterruptedError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ServerDefectError,
    TransientError,
    UnavailableError,
)
from askmesh_client.tls import Certificates, CertificatesError, TlsFiles

__all__ = [
    "GENERATION_SECONDS",
    "AccessDeniedError",
    "CannotContinueError",
    "Certificates",
    "CertificatesError",
    "DeadlineExceededError",
    "Event",
    "FieldViolation",
    "GenerationCancelledError",
    "GenerationClient",
    "GenerationError",
    "GenerationInterruptedError",
    "GenerationStream",
    "InvalidRequestError",
    "ModelNotFoundError",
    "OverloadedError",
    "ServerDefectError",
    "TlsFiles",
    "TransientError",
    "UnavailableError",
]
