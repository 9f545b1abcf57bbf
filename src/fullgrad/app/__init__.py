"""``fullgrad app``: a local viewer in the browser (docs/design/app.md)."""
