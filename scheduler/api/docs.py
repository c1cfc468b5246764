"""`/docs`: the description for people, which needs no internet."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

PATH = "/docs"
ASSETS = ("/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/favicon-32x32.png")


def serve_docs(app: FastAPI) -> None:
    """Swagger UI, out of a package: FastAPI's own page would have the browser fetch it from another host.

    All addresses are relative to the page, so it holds behind a proxy with TLS or a path of its own.
    """

    program, style, icon = (asset.removeprefix("/") for asset in ASSETS)

    @app.get(PATH, include_in_schema=False)
    async def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=program,
            swagger_css_url=style,
            swagger_favicon_url=icon,
        )

    app.mount(PATH, StaticFiles(packages=[("fastapi_swagger", "resources")]))
