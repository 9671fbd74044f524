"""Who may have its questions answered sooner or later than its others."""

from api_service.core.errors import ErrorCode, InvalidField, ServiceError
from api_service.core.principal import Principal
from owners.priority import Priority
from owners.roles import Role


def check_priority(caller: Principal, priority: Priority) -> None:
    """Raise ServiceError for a priority that the caller may not set. Only operators may set other than normal."""
    if priority is not Priority.NORMAL and caller.role is not Role.OPERATOR:
        field = InvalidField(
            field="priority",
            detail=f"is {priority}, which needs the {Role.OPERATOR} role",
            remedy="leave it out, or send normal",
        )
        raise ServiceError(ErrorCode.FORBIDDEN, fields=[field])
