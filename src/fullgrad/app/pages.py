"""The page's files: a fixed table, read into memory once."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from fullgrad.errors import FullGradError

_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
NAMES = (
    "index.html",
    "app.css",
    "address.js",
    "api.js",
    "app.js",
    "classes.js",
    "dom.js",
    "methods.js",
    "numbers.js",
    "photograph.js",
    "viewer.js",
    "waterfall.js",
)


@dataclass(frozen=True, slots=True)
class Page:
    """A file of the page.

    Args:
        content: of it.
        kind: media type.
    """

    content: bytes
    kind: str


def pages() -> dict[str, Page]:
    """From the paths under which they are asked for to the files.

    Raises:
        FullGradError: a file is not there: the package is not whole.
    """
    folder = resources.files("fullgrad.app") / "static"
    found: dict[str, Page] = {}
    for name in NAMES:
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise FullGradError(
                f"the viewer's file {name} is missing from the installed package: install "
                "fullgrad again"
            ) from error
        found[f"/static/{name}"] = Page(content, _KINDS[name.rpartition(".")[2]])
    found["/"] = found["/static/index.html"]
    return found
