"""Who may have its questions answered sooner or later than its others."""

from api_service.authentication.principal import Principal
from api_service.http.problems import Code, FieldError, ProblemError
from owners.roles import Role
from owners.turns import Priority


def check_priority(caller: Principal, priority: Priority | None) -> None:
    """Raise a 403 ProblemError for a priority that the caller may not set. Only operators may set other than normal."""
    if priority not in (None, Priority.NORMAL) and caller.role is not Role.OPERATOR:
        field = FieldError(
            field="priority",
            detail=f"is {priority}, which needs the {Role.OPERATOR} role",
            remedy="leave it out, or send normal",
        )
        raise ProblemError.of_fields(Code.FORBIDDEN, [field])
