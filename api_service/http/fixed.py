"""Responses that are the same for everybody, made once and sent as they are."""

import gzip
import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_DIGEST_CHARACTERS: Final = 16
# Below this, what gzip adds is about what it saves.
_LEAST_COMPRESSED_BYTES: Final = 500


class Fixed:
    """A body with its ETag, also compressed where that makes it smaller. Sending it takes no work but the copying."""

    def __init__(self, body: bytes, media_type: str, headers: Mapping[str, str]) -> None:
        self._body = body
        self._media_type = media_type
        self._digest = hashlib.sha256(body).hexdigest()[:_DIGEST_CHARACTERS]
        self._headers = {**headers, "Vary": "Accept-Encoding"}
        compressed = gzip.compress(body, 9, mtime=0) if len(body) >= _LEAST_COMPRESSED_BYTES else body
        self._compressed = compressed if len(compressed) < len(body) else None

    def response(self, request: Request, more_headers: Mapping[str, str] = MappingProxyType({})) -> Response:
        """200 with the body, or 304 to whoever has it."""
        compressed = self._compressed if "gzip" in request.headers.get("accept-encoding", "") else None
        # They are two representations, and a proxy may keep both.
        etag = f'"{self._digest}"' if compressed is None else f'"{self._digest}-gzip"'
        headers = {**self._headers, **more_headers, "ETag": etag}
        if self._digest in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        if compressed is None:
            return Response(self._body, media_type=self._media_type, headers=headers)
        return Response(compressed, media_type=self._media_type, headers={**headers, "Content-Encoding": "gzip"})
