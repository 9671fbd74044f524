"""How many questions a worker holds, and for how long its lease lasts."""

from typing import Self

from pydantic import Field, model_validator

from foundation.settings.base import Group


class WorkerSettings(Group):
    worker_slots: int = Field(
        512, ge=1, le=10_000, description="Most answers that one worker process generates at a time."
    )
    reserved_slots: int | None = Field(
        None,
        ge=0,
        le=9_999,
        description="Of these slots, how many a single owner cannot use if there are several owners. Empty: an eighth,"
        " rounded up. 0: one owner may use all.",
    )
    lease_seconds: float = Field(
        15,
        ge=6,
        le=3_600,
        description="A worker that does not renew its lease for so long loses its questions to the others.",
    )
    heartbeat_seconds: float = Field(5, ge=0.1, le=1_000, description="How often a worker renews its lease.")
    worker_health_host: str = Field("127.0.0.1", description="Address of worker_service's health port.")
    worker_health_port: int | None = Field(
        None, ge=1, le=65_535, description="Port on which worker_service answers grpc.health.v1; empty: none."
    )

    @model_validator(mode="after")
    def _heartbeat_is_shorter_than_lease(self) -> Self:
        if self.heartbeat_seconds * 2 + 3 > self.lease_seconds:
            raise ValueError("ASKMESH_LEASE_SECONDS must be at least 2 x ASKMESH_HEARTBEAT_SECONDS + 3")
        return self

    @model_validator(mode="after")
    def _reserve_is_a_part(self) -> Self:
        if self.reserved_slots is not None and self.reserved_slots >= self.worker_slots:
            raise ValueError("ASKMESH_RESERVED_SLOTS must be below ASKMESH_WORKER_SLOTS")
        return self
