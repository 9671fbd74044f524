"""What `make run` starts, and where."""

from pathlib import Path

from pydantic import Field

from foundation.settings.base import Group


class EmbeddedSettings(Group):
    """Read by `make run` only."""

    port: int = Field(8080, ge=0, le=65_535, description="Public port of the API; 0 takes a free one.")
    grpc_port: int = Field(
        50_051,
        ge=0,
        le=65_535,
        description="Port of the first llm_service; further replicas take the ports after it. 0 takes free ones.",
    )
    data_dir: Path = Field(Path(".askmesh"), description="Where the embedded servers keep their data and logs.")
    api_replicas: int = Field(1, ge=1, le=64, description="Processes of api_service.")
    worker_replicas: int = Field(1, ge=1, le=64, description="Processes of worker_service.")
    llm_replicas: int = Field(1, ge=1, le=64, description="Processes of llm_service.")
