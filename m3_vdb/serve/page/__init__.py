"""The search page at ``/``: files without a build step, which ask the endpoints of this server and nothing else.

The files hold no data, so they need no key; the page asks for one where the server has keys. Texts of documents are
never HTML: ``elements.js`` only makes text nodes, and the policy forbids scripts, styles and requests from elsewhere.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

router = APIRouter(include_in_schema=False)
FILES: Final = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{f"/{name}": (name, "text/javascript") for name in ("page.js", "filters.js", "explanation.js", "elements.js")},
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path → file and type."""
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@cache
def _content(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()


async def _file(request: Request) -> Response:
    name, media_type = FILES[request.scope["route"].path]
    return Response(_content(name), headers=HEADERS, media_type=media_type)


for path in FILES:
    router.add_api_route(path, _file, methods=["GET", "HEAD"])
