"""``evaluate``: its options, what it writes, killed runs, further methods, and Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from evaluating import NET, write_images
from fullgrad import methods
from fullgrad.cli.main import main
from fullgrad.errors import LayoutError, MethodError
from fullgrad.evaluation import bench
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.evaluation.tests.evaluate import measures
from fullgrad.evaluation.tests.evaluate.measures import relevance_gain
from fullgrad.evaluation.tests.evaluate.measures.stability import Shifted
from fullgrad.evaluation.tests.evaluate.options import METHODS as BY_DEFAULT
from fullgrad.evaluation.tests.evaluate.options import chosen_by

METHODS = ("input_gradient", "random", "center")
TESTS = ("relevance-gain", "class-sensitivity")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    write_images(Path("photos"), 5)
    return tmp_path


def run(out: str = "out", **options: Any) -> Any:
    given: dict[str, Any] = {
        "model": ("net.py:make_model",),
        "images": "photos",
        "methods": METHODS,
        "tests": TESTS,
        "batch_size": 2,
        "say": lambda line: None,
    }
    if "relevance-gain" in options.get("tests", TESTS):
        given |= {"cell": 4, "fractions": (0.2, 0.5)}
    return bench.bench("evaluate", out, **{**given, **options})


def test_rows_tables_and_record(here: Path) -> None:
    found = run(random_orders=3)
    assert found.finished
    rows = found.rows
    assert set(rows["case"]) == {f"{i:03d}.png" for i in range(5)}
    counts = rows.groupby(["test", "setting", "method"]).size()
    assert counts["relevance-gain", "mean, cells of 4"].to_dict() == {
        "center": 5,
        "input_gradient": 5,
        "random": 15,
    }
    assert counts["class-sensitivity", "unlikely class"].to_dict() == dict.fromkeys(METHODS, 5)
    assert rows.loc[rows["test"] == "relevance-gain", ["least", "most"]].notna().all(axis=None)
    assert rows.loc[rows["test"] == "class-sensitivity", "value"].between(-1, 1).all()
    blind = rows[(rows["test"] == "class-sensitivity") & rows["method"].isin(["random", "center"])]
    assert (blind["value"] == 1).all()
    ranking = found.tables["ranking"]
    assert len(ranking) == 3 * 3
    for _, group in ranking.groupby(["test", "setting"]):
        assert group["rank"].tolist() == [1, 2, 3]
        assert group["verdict"].iloc[0] == "first"
    assert len(found.tables["agreement"]) == 3
    record = json.loads(Path("out/record.json").read_text())
    assert record["plan"]["tests"][0]["cell"] == 4
    assert record["models"]["net.py:make_model"]["classes"] == 6
    assert record["does_not_apply"] == []
    assert record["chosen"] == {"by": "given"}
    labels = [MethodChoice.parse(text).label for text in BY_DEFAULT]
    assert chosen_by(labels) == {"by": "default", "reason": methods.REASON}
    assert chosen_by(labels[:2]) == {"by": "given"}
    assert "input_gradient" in str(found)
    assert run(random_orders=3).known


def test_a_seed_changes_noise_and_nothing_else_of_the_gain(here: Path) -> None:
    a, b = (run(out, seed=seed).rows for out, seed in (("a", 0), ("b", 1)))
    gains = [
        t[t["test"] == "relevance-gain"].set_index(["method", "case"])["value"] for t in (a, b)
    ]
    assert gains[0]["input_gradient"].equals(gains[1]["input_gradient"])
    assert not gains[0]["random"].equals(gains[1]["random"])


def test_the_size_of_batches_changes_rounding_alone(here: Path) -> None:
    tests = ("relevance-gain", "class-sensitivity", "randomization", "stability", "logit-shift")
    options = {"methods": METHODS[::2], "tests": tests, "fills": ("mean", "noise"), "copies": 2}
    whole, cut = (
        run(f"batch-{size}", batch_size=size, **options)
        .rows.set_index(["test", "setting", "method", "case"])["value"]
        .sort_index()
        for size in (5, 2)
    )
    assert len(whole) == 2 * 5 * (2 + 2 + 3 + 1 + 3)
    pd.testing.assert_series_equal(whole, cut, rtol=1e-4, atol=1e-5)


def test_another_method_finds_what_is_done(here: Path) -> None:
    said: list[str] = []
    first = run(store="kept")
    before = {p.name: p.stat().st_mtime_ns for p in Path("kept").glob("*.stage")}
    assert first.done == len(before) == 3 * 3
    Path("mine.py").write_text("def mine(model, inputs, target):\n    return inputs\n")
    further = ("sobel", "simple_fullgrad", "mine.py:mine")  # of each kind of source
    more = run(methods=(*METHODS, *further), store="kept", say=said.append)
    assert said == [
        "out holds results of other options, which these replace; the stages of both are kept"
    ]
    after = {p.name: p.stat().st_mtime_ns for p in Path("kept").glob("*.stage")}
    assert more.done == 9
    assert len(after) == 18
    assert before.items() <= after.items()
    columns = list(first.rows.columns)
    old = more.rows[more.rows["method"].isin(METHODS)]
    pd.testing.assert_frame_equal(
        old.sort_values(columns, ignore_index=True),
        first.rows.sort_values(columns, ignore_index=True),
    )
    assert run("fewer", methods=("sobel",), store="kept").done == 0
    assert run("other", tests=TESTS[:1], store="kept").done == 9


def refuses_shifted(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    if isinstance(model, Shifted) and len(inputs) == 1:
        raise LayoutError("no  layer")
    return inputs


def test_a_method_that_a_test_refuses_is_reported_and_the_rest_goes_on(here: Path) -> None:
    methods.register("refuses_shifted", refuses_shifted)
    try:
        said: list[str] = []
        tests = ("logit-shift", "class-sensitivity")
        found = run(methods=("refuses_shifted", "sobel"), tests=tests, say=said.append)
        line = {"model": "net.py:make_model", "test": "logit-shift", "method": "refuses_shifted"}
        assert said == [
            "refuses_shifted does not apply to net.py:make_model in logit-shift: no layer"
        ]
        assert found.record["does_not_apply"] == [line | {"why": "no layer"}]
        assert "refused" not in found.rows
        counts = found.rows.groupby(["test", "method"])["case"].nunique()
        assert counts.to_dict() == {  # also its maps of the other four images are left out
            ("class-sensitivity", "refuses_shifted"): 5,
            ("class-sensitivity", "sobel"): 5,
            ("logit-shift", "sobel"): 5,
        }
        assert run(methods=("refuses_shifted", "sobel"), tests=tests).known
        with pytest.raises(
            MethodError,
            match=r"no method applies to net\.py:make_model in logit-shift; the first: no layer",
        ):
            run("none", methods=("refuses_shifted",), tests=tests[:1])
    finally:
        methods.unregister("refuses_shifted")


def attends(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    if isinstance(model, nn.Sequential):
        raise MethodError("there is  nothing\nto attend")
    return inputs


def test_methods_that_do_not_apply_are_reported(here: Path) -> None:
    methods.register("attends", attends)
    try:
        said: list[str] = []
        both = ("net.py:make_model", "net.py:Odd")
        found = run(model=both, methods=("attends", "sobel"), say=said.append)
        why = "there is nothing to attend"
        assert f"attends does not apply to net.py:make_model: {why}" in said
        assert found.record["does_not_apply"] == [
            {"model": "net.py:make_model", "method": "attends", "why": why}
        ]
        known = found.rows.groupby("model")["method"].unique()
        assert list(known["net.py:make_model"]) == ["sobel"]
        assert sorted(known["net.py:Odd"]) == ["attends", "sobel"]
        with pytest.raises(
            MethodError,
            match=r"no method applies to net\.py:make_model; the first: there is nothing",
        ):
            run("none", methods=("attends",))
    finally:
        methods.unregister("attends")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": ("a", "b")}, "2 weights for 1 models: give one for each"),
        ({"ray_address": "x"}, "--ray-address needs --executor ray"),
        ({"tests": ("magic",)}, "unknown test 'magic'; known: relevance-gain, grid-pointing"),
        ({"tests": ()}, "no tests are asked for"),
        ({"tests": TESTS[:1] * 2}, "asked for twice: relevance-gain"),
        ({"model": ()}, "no models are asked for"),
        ({"model": ("net.py:Odd",) * 2}, "asked for twice: net.py:Odd"),
        ({"methods": ()}, "at least one method is needed"),
        ({"methods": ("sobel", "sobel")}, "asked for twice: sobel"),
        ({"methods": ("sobel:signed=True",)}, "method 'sobel' has no sign"),
        ({"explain": "magic"}, "--explain is one of logit, log-probability, margin, not 'magic'"),
        ({"random_orders": 0}, "at least one random order is needed, not 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1, not 0"),
        ({"limit": 0}, "at least one image is needed, not 0"),
        ({"fills": ("magic",)}, "unknown fill"),
        ({"fills": ()}, "unknown fill"),
        ({"cell": 0}, "a cell has at least one pixel, not 0"),
        ({"fractions": (0.5, 1.0)}, "relevance gain needs fractions below 1"),
        ({"fractions": (0.5, 0.2)}, "in ascending order"),
        ({"tests": ("grid-pointing",), "sides": (1,)}, "at least 2 images along its side"),
        ({"tests": ("grid-pointing",), "sure": 1.0}, r"a probability lies in \[0, 1\), not 1.0"),
        ({"tests": ("randomization",), "bins": 1}, "a histogram needs at least 2 bins, not 1"),
        ({"tests": ("randomization",), "copies": -1}, "copies must not be negative, not -1"),
        ({"tests": ("stability",), "noise": 0.0}, "noise must be positive, not 0.0"),
        ({"tests": ("logit-shift",), "numbers": ()}, "numbers must be of logit, log-probability"),
    ],
)
def test_options_that_are_wrong(here: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**options)
    assert not Path("out").exists()


def test_the_command_and_its_errors(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["bench", "evaluate", "--model", "net.py:make_model", "--images", "photos", "--out", "o"]
    line += ["--methods", *METHODS, "--tests", "relevance-gain", "--cell", "4", "--limit", "3"]
    assert main(line) == 0
    assert "input_gradient" in capsys.readouterr().out
    assert main([*line, "--bins", "5", "--tests", "magic"]) == 2
    assert "magic" in capsys.readouterr().err
    assert main([*line, "--methods", "magic"]) == 2
    assert "unknown method 'magic'" in capsys.readouterr().err


def test_tests_of_maps_have_names_of_their_own() -> None:
    with pytest.raises(ValueError, match="there is a test named 'relevance-gain' already"):
        measures.register(relevance_gain.RelevanceGain)
    kinds = measures.measures()
    for name, kind in kinds.items():
        assert kind.name == name
        assert kind.better in {"higher", "lower"}
        assert set(kind().values()) >= {"test", *(o.name for o in kind.options)}
    gain = measures._MEASURES["relevance-gain"]
    measures.unregister("relevance-gain")
    assert "relevance-gain" not in measures.measures()
    measures._MEASURES.clear()
    measures._MEASURES.update(kinds)
    assert measures.measures()["relevance-gain"] is gain


def test_a_choice_takes_a_sign_where_there_is_one() -> None:
    choice = MethodChoice.parse("integrated_gradients:n_steps=3,signed=True")
    assert choice.options == {"n_steps": 3, "signed": True}
    assert choice.label == "integrated_gradients:n_steps=3,signed=True"
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.randn(1, 3, 2, 2)
    assert float(methods.attribute(choice.name, model, x, 1, **choice.options).min()) < 0
    assert MethodChoice.parse("sobel:signed=False").options == {"signed": False}
    for text in ("sobel:signed=True", "grad_cam:signed=True", "fullgrad:psi=layer,signed=True"):
        with pytest.raises(ValueError, match="has no sign"):
            MethodChoice.parse(text)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from fullgrad.cli.main import main
torch.set_num_threads(1)
out, arguments = Path(sys.argv[1]), sys.argv[2:]

def start(folder, event=None):
    # dies before its so-manieth file is renamed
    child = os.fork()
    if child == 0:
        real, seen = os.replace, 0

        def replace(source, target):
            nonlocal seen
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        os.replace = replace
        os._exit(main([*arguments, "--out", str(folder)]))
    return os.waitpid(child, 0)[1]

def stamps(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("stages/*.stage")}

assert main([*arguments, "--out", str(out / "whole")]) == 0  # and all is loaded, for the children too
event, left, before, kills = 1, None, {}, 0
while True:
    status = start(out / "cut", event)
    now = stamps(out / "cut")
    assert before.items() <= now.items(), "a finished stage was done again"
    before = now
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    kills += 1
    event += 1
print("killed", kills, "times among", len(stamps(out / "whole")), "stages")
"""


def test_a_killed_run_ends_in_the_same_results(here: Path) -> None:
    line = ["bench", "evaluate", "--model", "net.py:make_model", "--images", "photos"]
    line += ["--methods", *METHODS, "--tests", *TESTS, "--cell", "4", "--batch-size", "2"]
    line += ["--fills", "mean", "noise", "--fractions", "0.2", "0.5", "--random-orders", "2"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(here), *line],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kills, stages = (int(w) for w in done.stdout.splitlines()[-1].split() if w.isdecimal())
    assert stages == 9
    assert kills >= 4
    names = {p.name for p in Path("whole").iterdir()}
    assert names == {p.name for p in Path("cut").iterdir()} >= {"results.csv", "ranking.csv"}
    for name in sorted(names - {"record.json", "stages"}):
        ours, theirs = (Path(folder, name).read_bytes() for folder in ("cut", "whole"))
        if not name.endswith(".html"):
            assert ours == theirs, name


@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_rows(here: Path, cluster: Any) -> None:
    photos, net = str(here / "photos"), f"{here / 'net.py'}:make_model"
    own = run("here", images=photos, model=(net,))
    there = run("there", images=photos, model=(net,), executor="ray", workers=2)
    assert there.done == 9
    pd.testing.assert_frame_equal(there.rows, own.rows)
    again = run("there", images=photos, model=(net,), executor="ray")
    assert again.known
