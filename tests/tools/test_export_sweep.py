"""The table of docs/exporting.md is that of the stored rows, and every row ran without fullgrad."""

import json

from export_sweep import END, LARGEST, PAGE, RESULTS, START, table


def test_the_page_shows_the_stored_rows() -> None:
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    shown = PAGE.read_text().split(START)[1].split(END)[0]
    assert shown.strip() == table(rows)
    for row in rows:
        assert row["torch"]["largest"] == 0  # the same kernels
        jumps = row["largest_with_other_kernels"]
        assert row["onnx"]["equal"] or row["onnx"]["largest"] <= 3 * jumps
        smooth = row["equal_with_other_kernels"] == row["inputs"]
        assert not smooth or row["onnx"]["largest"] <= 10 * LARGEST
