"""GET /docs: Swagger from BentoML's own wheel; nothing comes from another host. GET /openapi.json: the description."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from models.serving.openapi import describe
from models.serving.runtime import Runtime

ASSETS: Final = {  # served under /docs/; the files lie in BentoML's wheel
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}
START_SCRIPT: Final = """\
window.onload = () => SwaggerUIBundle({url: "/openapi.json", dom_id: "#page", validatorUrl: null});
"""
PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Churn API</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
  <div id="page"></div>
  <script src="/docs/swagger-ui-bundle.js"></script>
  <script src="/docs/start.js"></script>
</body>
</html>
"""
# Swagger sets styles on elements and draws its icons from data: URLs; scripts come from this host only.
PAGE_POLICY: Final = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " \
                     "font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


async def docs(_: Request) -> Response:
    return Response(PAGE, media_type="text/html", headers={"content-security-policy": PAGE_POLICY})


async def description(request: Request) -> Response:
    """The OpenAPI document, where tools look for it."""
    runtime: Runtime = request.app.state.runtime
    return JSONResponse(describe(runtime.payload.contract, runtime.release_id, keys=runtime.keys is not None))


async def docs_file(request: Request) -> Response:
    """The page's files."""
    name = request.path_params["name"]
    if name == "start.js":
        return Response(START_SCRIPT, media_type="text/javascript")
    if name not in ASSETS:
        raise HTTPException(404)
    import bentoml._internal.server as bentoml_server

    folder = Path(str(bentoml_server.__file__)).parent / "static_content"
    return FileResponse(folder / name, media_type=ASSETS[name], headers={"cache-control": "max-age=86400"})
