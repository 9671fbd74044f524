"""Who calls."""

from dataclasses import dataclass
from typing import Final

from api_service.core.errors import ErrorCode, ServiceError
from owners.limits import NO_OVERRIDES, LimitOverrides
from owners.roles import Role


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. Questions of one tenant are invisible to all others.

    ``key_id``: the API key that was used; None for a token, and where nobody has to say who they are.
    """

    tenant: str
    role: Role
    key_id: int | None = None
    limits: LimitOverrides = NO_OVERRIDES

    def require(self, role: Role) -> None:
        """Raise ServiceError unless the caller has this role. Operators have every role."""
        if self.role not in (role, Role.OPERATOR):
            raise ServiceError(ErrorCode.FORBIDDEN, f"This needs the {role} role; you have {self.role}.")


LOCAL: Final = Principal(tenant="local", role=Role.OPERATOR)
"""Everybody, where no authentication is required."""
