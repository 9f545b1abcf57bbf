"""``fullgrad app``: a local viewer in the browser (docs/design/app.md)."""

from fullgrad._optional import require

for _module in ("starlette", "uvicorn", "pydantic", "matplotlib", "PIL"):
    require(_module, "app")
