"""GET / and the files that the page loads."""

import hashlib
from functools import cache
from http import HTTPStatus
from mimetypes import guess_type
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from api_service.http.fixed import Fixed

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
_FILE_HEADERS = {"X-Content-Type-Options": "nosniff"}
_FOREVER = "public, max-age=31536000, immutable"


def page_routes() -> list[BaseRoute]:
    """The page at ``/``, and its files under a path that changes with them, so that browsers keep them for good."""
    digest, files = _files()
    page = Fixed(_PAGE.read_text().replace("{{files}}", f"page/{digest}").encode(), "text/html", _HEADERS)

    async def show(request: Request) -> Response:
        return page.response(request)

    async def show_file(request: Request) -> Response:
        # While a new release takes over, the page of one process asks another for its files: it gets the others, and
        # must not keep them.
        caching = _FOREVER if request.path_params["digest"] == digest else "no-cache"
        if (file := files.get(request.path_params["path"])) is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return file.response(request, {"Cache-Control": caching})

    return [Route("/", show, name="page"), Route("/page/{digest}/{path:path}", show_file, name="page_files")]


@cache
def _files() -> tuple[str, dict[str, Fixed]]:
    """What the files are called by together, and each by its path."""
    digest, files = hashlib.sha256(), {}
    for file in sorted(_STATIC.rglob("*")):
        if file.is_file():
            name, content = file.relative_to(_STATIC).as_posix(), file.read_bytes()
            digest.update(name.encode() + b"\0" + content)
            files[name] = Fixed(content, guess_type(name)[0] or "text/plain", _FILE_HEADERS)
    return digest.hexdigest()[:_DIGEST_CHARACTERS], files
