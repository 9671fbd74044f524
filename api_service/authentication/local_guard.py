"""What keeps other web sites out where nobody has to say who they are."""

from starlette.types import ASGIApp, Receive, Scope, Send

from api_service.http.problems import Code, FieldError, ProblemError, problem_response

_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})


class LocalGuard:
    """Refuses requests that a browser sends for a page of another site.

    Such a page can have its own name lead to this machine (DNS rebinding): its requests then bear that name in Host.
    Or it can send what needs no consent, as a form: that bears its site in Origin.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], origins: frozenset[str]) -> None:
        """``hosts`` beside this machine's own names, ``origins`` beside pages from here."""
        self._app = app
        self._hosts = _LOCAL | hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._refusal(scope)) is not None:
            response = problem_response(scope, problem.code, problem.detail, errors=problem.errors)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ProblemError | None:
        hosts, origins = [], []
        for header, value in scope["headers"]:
            if header == b"host":
                hosts.append(value.decode("latin-1").lower())
            elif header == b"origin":
                origins.append(value.decode("latin-1").lower())
        for host in hosts:
            if _name(host) not in self._hosts:
                return _foreign("Host", host, "use localhost, or allow the name in ASKMESH_ALLOWED_HOSTS")
        for origin in origins:
            if origin not in self._origins and origin.partition("://")[2] not in hosts:
                return _foreign("Origin", origin, "allow the site in ASKMESH_ALLOWED_ORIGINS")
        return None


def _name(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _foreign(header: str, value: str, remedy: str) -> ProblemError:
    detail = f"is {value[:100] or 'empty'}, which is not served without authentication"
    return ProblemError.of_fields(Code.FORBIDDEN, [FieldError(field=header, detail=detail, remedy=remedy)])
