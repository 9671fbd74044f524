"""The document that /openapi.json serves."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import orjson
from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api_service.http.documentation import REFERENCE, Schemas, problems
from api_service.http.fixed import Fixed
from api_service.http.problems import Code, Problem

_OF_AUTHENTICATION = {str(status): said for status, said in problems(Code.UNAUTHENTICATED, Code.FORBIDDEN).items()}
_SECURITY_SCHEMES: Mapping[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a token of the OIDC issuer that is set. Only with ASKMESH_REQUIRE_AUTH=true:"
        " otherwise all callers count as one.",
    },
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key, not a token."},
}


class DocumentedApi(FastAPI):
    """FastAPI whose OpenAPI has the schemas too that no endpoint declares as a parameter or result."""

    def __init__(self, *, undeclared_schemas: Schemas, **options: Any) -> None:
        super().__init__(**options)
        self._undeclared_schemas = undeclared_schemas

    def document_route(self) -> Route:
        """/openapi.json, made when it is asked for first."""

        @cache
        def document() -> Fixed:
            return Fixed(orjson.dumps(self.openapi()), "application/json", {"Cache-Control": "no-cache"})

        async def show(request: Request) -> Response:
            return document().response(request)

        return Route("/openapi.json", show, name="openapi")

    def openapi(self) -> dict[str, Any]:
        """The document that /openapi.json serves."""
        document = super().openapi()
        schemas: Schemas = [(Problem, "serialization"), *self._undeclared_schemas]
        _, definitions = models_json_schema(schemas, ref_template=REFERENCE)
        document["components"]["schemas"].update(definitions["$defs"])
        document["components"]["securitySchemes"] = _SECURITY_SCHEMES
        for path, methods in document["paths"].items():
            if path.startswith("/api/"):
                for operation in methods.values():
                    operation["security"] = [{scheme: []} for scheme in _SECURITY_SCHEMES]
                    operation["responses"].update(_OF_AUTHENTICATION)
        return document
