"""What docs/gallery.md shows: photographs explained, and the sheets that they are drawn on."""
