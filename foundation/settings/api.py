"""Where and how api_service listens."""

from pydantic import Field

from foundation.settings.base import Group


class ApiSettings(Group):
    api_host: str = Field(
        "127.0.0.1",
        description="Address that api_service listens on; a network address needs ASKMESH_REQUIRE_AUTH=true.",
    )
    api_port: int = Field(8000, ge=0, le=65_535, description="Port that api_service listens on; 0: a free one.")
    api_listen_fd: int | None = Field(
        None, ge=3, description="Listening socket inherited from the supervisor, instead of host and port."
    )
    max_connections: int = Field(
        8_192, ge=16, le=1_000_000, description="Most connections of one api_service process at a time."
    )
    max_body_bytes: int = Field(65_536, ge=1_024, le=16_777_216, description="Largest request body, in bytes.")
