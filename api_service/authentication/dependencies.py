"""Who calls, for endpoints of all features."""

from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from api_service.authentication.authenticator import Authenticator
from api_service.core.principal import LOCAL, Principal


class AuthenticationState(TypedDict):
    """No authenticator: nobody has to say who they are."""

    authenticator: Authenticator | None


async def authenticate(request: Request) -> Principal:
    """Who calls. Raises ProblemError and ServiceError."""
    authenticator = cast(AuthenticationState, request.state)["authenticator"]
    return LOCAL if authenticator is None else await authenticator.principal(request.headers)


Caller = Annotated[Principal, Depends(authenticate)]
