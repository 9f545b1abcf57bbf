"""Results show themselves in a notebook: what is said is so, and nothing is raised or copied."""

from __future__ import annotations

import html.parser
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad._table import ROWS, SAMPLES
from fullgrad.maps.tokens.attribution import attribute_tokens
from fullgrad.maps.tokens.sinks import TokenScores
from networks import ResNetLike, seeded

VOID = {"br"}


class Page(html.parser.HTMLParser):
    """Checks that elements are closed; collects rows of cells, and what could be harmful."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.bars: list[tuple[float, float, str]] = []
        self.attributes: set[str] = set()
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        style = dict(attrs).get("style") or ""
        if found := re.match(r"margin-left:([\d.]+)%;width:([\d.]+)%;.*color:(#\w+)", style):
            self.bars.append((float(found[1]), float(found[2]), found[3]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def numbers(self, name: str) -> list[float]:
        """The numbers of the row of a name."""
        (row,) = [r for r in self.rows if r[0] == name]
        return [value(cell) for cell in row[2::2]]


def value(text: str) -> float:
    return float(text.replace("−", "-"))


def shown(result: object) -> Page:
    page = Page(result._repr_html_())  # type: ignore[attr-defined]
    assert "no table" not in page.words
    assert not page.tags & {"script", "style", "link", "img", "iframe"}
    assert page.attributes <= {"style", "scope", "colspan", "aria-hidden"}
    return page


def convnet(batch: int = 2) -> fullgrad.Decomposition:
    torch.manual_seed(1)
    return fullgrad.decompose(
        seeded(ResNetLike), torch.randn(batch, 3, 16, 16, dtype=torch.float64)
    )


class Words(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.head = nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.embed(ids)).mean(1))


def words(batch: int = 2, tokens: int = 6) -> TokenScores:
    torch.manual_seed(0)
    return attribute_tokens(Words().double(), torch.randint(0, 20, (batch, tokens)), 1)


def test_a_decomposition_is_shown_with_its_own_numbers() -> None:
    d = convnet()
    page = shown(d)
    assert page.numbers("input") == pytest.approx(d.input_sums.tolist(), rel=1e-3)
    assert page.numbers("= output") == pytest.approx(d.output.tolist(), rel=1e-3)
    assert page.numbers("residual") == pytest.approx(d.residual.tolist(), rel=0.06, abs=1e-30)
    for name, sums in d.by_module(1).items():
        assert page.numbers(name) == pytest.approx(sums.tolist(), rel=1e-3), name
    counts = [int(r[1]) for r in page.rows if r[1].isdigit()]
    assert sum(counts) == len(d)
    assert d.target is not None
    assert page.rows[0][2:] == [f"sample {i}target {int(t)}" for i, t in enumerate(d.target)]
    for word in ("gradient × input", "gradient × bias", "rounding", f"{len(d)} in all", "1e-10"):
        assert word in page.words
    assert f"{float(d.relative_residual.max()):.1e}" in page.words


def test_the_shown_parts_add_up_to_the_output() -> None:
    page = shown(convnet(1))
    rows = [r[0] for r in page.rows[1:]]
    assert rows[0] == "input" and rows[-2:] == ["residual", "= output"]
    parts = sum(page.numbers(name)[0] for name in rows[:-1])
    assert parts == pytest.approx(page.numbers("= output")[0], abs=2e-3)


def test_bars_are_as_long_as_their_numbers_and_point_the_right_way() -> None:
    page = shown(convnet(1))
    values = [page.numbers(r[0])[0] for r in page.rows[1:-2]]
    longest = max(map(abs, values))
    assert len(page.bars) == len(values)
    for (left, width, color), v in zip(page.bars, values, strict=True):
        assert width == pytest.approx(50 * abs(v) / longest, abs=0.11)
        assert (left if v > 0 else left + width) == pytest.approx(50, abs=0.11)
        assert color == ("#d6604d" if v > 0 else "#4393c3")


def test_of_a_batch_the_first_samples_are_shown_and_the_others_counted() -> None:
    page = shown(convnet(SAMPLES + 2))
    assert len(page.numbers("input")) == SAMPLES
    assert f"samples: {SAMPLES} of {SAMPLES + 2} are shown" in page.words
    assert "are shown" not in shown(convnet(SAMPLES)).words


def test_a_batch_without_sums_for_each_sample() -> None:
    model = seeded(ResNetLike)
    d = fullgrad.decompose(
        model, torch.randn(3, 3, 16, 16, dtype=torch.float64), 1, per_sample=False
    )
    page = shown(d)
    assert page.rows[0][2] == "whole batch"
    assert page.numbers("= output") == pytest.approx([float(d.output.sum())], rel=1e-3)
    assert "summed over the batch" in page.words


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(self.a(x)) * self.b(y)


def test_several_inputs_are_one_row() -> None:
    inputs = (torch.randn(2, 4).double(), torch.randn(2, 5).double())
    d = fullgrad.decompose(Two().double(), inputs, 0)
    page = shown(d)
    assert page.numbers("2 inputs") == pytest.approx(d.input_sums.tolist(), rel=1e-3)
    assert "(model)" in [r[0] for r in page.rows]


def test_many_stages_are_gathered_and_keep_their_sum() -> None:
    torch.manual_seed(0)
    layers = [m for _ in range(40) for m in (nn.Linear(6, 6), nn.Tanh())]
    d = fullgrad.decompose(nn.Sequential(*layers).double(), torch.randn(2, 6).double(), 0)
    assert len(d) == 80
    page = shown(d)
    rows = page.rows[2:-2]
    assert len(rows) <= ROWS
    assert any(re.fullmatch(r"\d+ stages", r[0]) for r in rows)
    assert sum(int(r[1]) for r in rows) == 80
    total = sum(value(r[2]) for r in rows)
    assert total == pytest.approx(float(d.bias_sums[0]), abs=1e-3)
    largest = max(d.by_module(1).items(), key=lambda kv: float(kv[1].abs().max()))[0]
    assert largest in [r[0] for r in rows]


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*[nn.Linear(4, 4) for _ in range(6)])

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)


def test_stages_are_finer_where_one_module_holds_all() -> None:
    d = fullgrad.decompose(Nested().double(), torch.randn(1, 4).double(), 0)
    assert "backbone.3" in [r[0] for r in shown(d).rows]


class Hostile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module("<script>alert(1)</script>&\"'", nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return next(iter(self.children()))(x)


def test_names_are_escaped() -> None:
    d = fullgrad.decompose(Hostile().double(), torch.randn(1, 4).double(), 0)
    for text in (d._repr_html_(), d.bias_terms[0]._repr_html_()):
        assert "<script" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in text
        Page(text)


def test_a_bias_term() -> None:
    d = convnet()
    term = d.bias_terms[0]
    page = shown(term)
    cells = {r[0]: r[1] for r in page.rows}
    assert cells["module"] == term.module
    assert cells["operation"] == term.op
    assert cells["kind"] == term.kind
    assert cells["shape"] == " × ".join(map(str, term.shape))
    found = [value(v) for v in cells["sum"].split(", ")]
    assert found == pytest.approx(term.sums.tolist(), rel=1e-3)
    assert "float64 on cpu" in page.words
    assert "…" in shown(convnet(SAMPLES + 1).bias_terms[0]).words


def test_token_scores() -> None:
    s = words()
    page = shown(s)
    for t in range(6):
        assert page.numbers(f"token {t}") == pytest.approx(s.total[:, t].tolist(), rel=1e-3)
    assert page.numbers("= output") == pytest.approx(s.output.tolist(), rel=1e-3)
    assert page.numbers("elsewhere") == pytest.approx(s.elsewhere.tolist(), rel=1e-3)
    assert page.numbers("of which input") == pytest.approx(s.scores.sum(1).tolist(), rel=1e-3)
    bias = s.bias_scores.sum(1).tolist()
    assert page.numbers("of which bias at tokens") == pytest.approx(bias, rel=1e-3)


def test_many_tokens_are_gathered() -> None:
    s = words(SAMPLES + 1, 500)
    page = shown(s)
    rows = [r for r in page.rows if "token" in r[0] and not r[0].startswith("of which")]
    assert len(rows) <= ROWS
    assert sum(value(r[2]) for r in rows) == pytest.approx(float(s.total[0].sum()), abs=1e-3)
    assert f"samples: {SAMPLES} of {SAMPLES + 1} are shown" in page.words


def test_numbers_that_are_not_finite_have_no_bar() -> None:
    d = convnet(1)
    d = replace(d, input_sums=torch.tensor([float("nan")], dtype=torch.float64))
    page = shown(d)
    assert page.rows[1][2] == "nan"
    assert page.bars[0][1] == 0


def test_what_cannot_be_shown_says_so_and_raises_nothing() -> None:
    d = replace(convnet(1), output=None)  # type: ignore[arg-type]
    text = d._repr_html_()
    assert text.startswith("<pre>Decomposition (no table: TypeError: ")
    s = replace(words(), scores=None)  # type: ignore[arg-type]
    assert s._repr_html_().startswith("<pre>TokenScores (no table: ")
    t = replace(convnet(1).bias_terms[0], sums=None)  # type: ignore[arg-type]
    assert t._repr_html_().startswith("<pre>BiasTerm (no table: ")


class _Watched(Tensor):
    """Refuses whatever would compute with it or copy it."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if getattr(func, "__name__", "") not in ("__get__", "dim", "size"):
            raise AssertionError(f"{func} of a term's numbers")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_no_term_is_computed_or_copied() -> None:
    d = convnet()
    watched = tuple(
        replace(t, gradient=t.gradient.as_subclass(_Watched), bias=t.bias.as_subclass(_Watched))
        for t in d.bias_terms
    )
    kept = replace(
        d,
        bias_terms=watched,
        inputs=tuple(x.as_subclass(_Watched) for x in d.inputs),
        input_gradients=tuple(g.as_subclass(_Watched) for g in d.input_gradients),
    )
    with pytest.raises(AssertionError, match="of a term's numbers"):
        _ = watched[0].value
    assert kept._repr_html_() == d._repr_html_()
    assert watched[0]._repr_html_() == d.bias_terms[0]._repr_html_()


def test_repr_is_one_short_line() -> None:
    d, s = convnet(), words()
    for text in (repr(d), repr(s), repr(d.bias_terms[0])):
        assert "\n" not in text and len(text) < 160 and "tensor(" not in text
    assert repr(s) == (
        f"TokenScores(batch=2, tokens=6, relative_residual={float(s.relative_residual.max()):.1e})"
    )


def test_the_core_s_dependencies_are_enough() -> None:
    code = """
import sys, torch, fullgrad
d = fullgrad.decompose(torch.nn.Linear(4, 2), torch.ones(1, 4), 0)
for name in ("matplotlib", "PIL", "torchvision", "IPython", "pandas"):
    assert name not in sys.modules or name == "pandas", name
    sys.modules[name] = None
assert "<table" in d._repr_html_()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_results_on_a_gpu_are_shown() -> None:
    model = seeded(ResNetLike).cuda()
    d = fullgrad.decompose(model, torch.randn(2, 3, 16, 16, dtype=torch.float64, device="cuda"))
    assert shown(d).numbers("input") == pytest.approx(d.input_sums.tolist(), rel=1e-3)
    assert "cuda" in shown(d.bias_terms[0]).words
