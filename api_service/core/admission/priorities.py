"""Who may have its questions answered sooner or later than its others."""

from api_service.authentication.principal import Principal
from api_service.http.problems import Code, FieldError, ProblemError
from owners.priority import Priority
from owners.roles import Role


def check_priority(caller: Principal, priority: Priority | None) -> None:
    """Raise a 403 ProblemError for a priority that the caller may not set. Only operators may set other than normal."""
    if priority not in (None, Priority.NORMAL) and caller.role is not Role.OPERATOR:
        field = FieldError(
            field="priority",
            detail=f"is {priority}, which takes the role {Role.OPERATOR}",
            remedy="leave it out, or send normal",
        )
        raise ProblemError.of_fields(Code.FORBIDDEN, [field])
