"""What `make run` starts, and where."""

from pathlib import Path

from pydantic import Field

from foundation.settings.base import Group


class EmbeddedSettings(Group):
    """Read by `make run` only."""

    port: int = Field(8080, ge=0, le=65_535, description="Public port of the API; 0: a free one.")
    grpc_port: int = Field(
        50_051,
        ge=0,
        le=65_535,
        description="Port of the first llm_service; further replicas use the ports after it. 0: free ones.",
    )
    data_dir: Path = Field(Path(".askmesh"), description="Where the embedded servers keep their data and logs.")
    api_replicas: int = Field(1, ge=1, le=64, description="Number of api_service processes.")
    worker_replicas: int = Field(1, ge=1, le=64, description="Number of worker_service processes.")
    llm_replicas: int = Field(1, ge=1, le=64, description="Number of llm_service processes.")
