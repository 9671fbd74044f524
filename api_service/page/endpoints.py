"""GET / and the files that the page loads."""

import hashlib
from http import HTTPStatus
from os import PathLike, stat_result
from pathlib import Path

from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_PAGE = Path(__file__).with_name("page.html")
_STATIC = Path(__file__).with_name("static")
_DIGEST_CHARACTERS = 16

# What a model writes is untrusted. Should any of it ever get past the sanitiser, it still cannot run a script, load an
# image, style itself, send a form or turn a string into a script: only the sanitiser's own policy makes HTML.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify"
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    # Links in answers lead elsewhere: nobody there needs to know where a reader comes from.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FOREVER = "public, max-age=31536000, immutable"


def page_routes() -> list[BaseRoute]:
    """The page at ``/``, and its files under a path that changes with them, so that browsers keep them for good."""
    digest = _digest_of_files()
    page = _PAGE.read_text().replace("{{files}}", f"page/{digest}").encode()
    etag = f'"{hashlib.sha256(page).hexdigest()[:_DIGEST_CHARACTERS]}"'
    headers = _HEADERS | {"ETag": etag}

    async def show(request: Request) -> Response:
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(page, media_type="text/html", headers=headers)

    return [
        Route("/", show, name="page"),
        Mount("/page/{digest}", GZipMiddleware(_Files(digest), compresslevel=9), name="page_files"),
    ]


def _digest_of_files() -> str:
    digest = hashlib.sha256()
    for file in sorted(_STATIC.rglob("*")):
        if file.is_file():
            digest.update(file.relative_to(_STATIC).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:_DIGEST_CHARACTERS]


class _Files(StaticFiles):
    def __init__(self, digest: str) -> None:
        super().__init__(directory=_STATIC)
        self._digest = digest

    def file_response(
        self, full_path: str | PathLike[str], stat_result: stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        # While a new release takes over, the page of one process asks another for its files: it gets the others, and
        # must not keep them.
        current = scope["path_params"]["digest"] == self._digest
        response.headers["Cache-Control"] = _FOREVER if current else "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
