"""Queries that are wrong, and models that fail: each gets a clear message."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fullgrad import methods

pytest.importorskip("starlette")
from app_server import (
    CAPTUM,
    PHOTOGRAPH,
    WHITE,
    Running,
    ask,
    encoded,
    error,
    lines,
    pixels,
    result,
    strict,
)
from fullgrad.app.models import Served, copies, serve
from fullgrad.errors import ModelLoadError

pytestmark = CAPTUM


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"model": "9"}, "model must be a whole number from 0 to 4, not '9'."),
        ({"model": "-1"}, "model must be a whole number"),
        ({"model": "/etc/passwd"}, "model must be a whole number"),
        ({"model": "0.0"}, "model must be a whole number"),
        ({"model": "٣"}, "model must be a whole number"),
        ({"target": "5"}, "target must be a whole number from 0 to 4, not '5'."),
        ({"target": "9" * 5000}, "target must be a whole number from 0 to 4"),
        ({"target": "dog"}, "target must be a whole number"),
        ({"method": "grad-cam"}, "unknown method 'grad-cam'; did you mean 'grad_cam'?"),
        ({"method": "__init__"}, "unknown method"),
        ({"parts": "some"}, "parts must be 'all' or 'map', not 'some'."),
        ({"opacity": "2"}, "opacity must be less than or equal to 1, not '2'."),
        ({"opacity": "nan"}, "opacity must be a finite number, not 'nan'."),
        ({"file": "x"}, "Unknown parameter 'file'; known: model, target, rather_than, method"),
        ({"options": "{"}, "options are not a JSON object."),
        ({"options": "[]"}, "options are not a JSON object."),
        ({"options": "[" * 3999}, "options are not a JSON object."),
        ({"options": '{"a":NaN}'}, "options are not a JSON object."),
        ({"options": " " * 5000}, "options are longer than 4000 characters."),
        (
            {"method": "fullgrad", "options": '{"psi":"loud"}'},
            "fullgrad: psi must be one of none, layer, channel, signed, not 'loud'.",
        ),
        ({"method": "fullgrad", "options": '{"psi":["layer"]}'}, "psi must be one of"),
        (
            {"method": "fullgrad", "options": '{"activation_layouts":{"a":"B C"}}'},
            "has no option 'activation_layouts' here; it has psi, terms, linearization.",
        ),
        ({"method": "fullgrad", "options": '{"terms":"nowhere"}'}, "nowhere"),
        (
            {"method": "path_fullgrad", "options": '{"terms":"a,,b"}'},
            "terms must be one of all, explicit",
        ),
        ({"method": "path_fullgrad", "options": '{"terms":{"a":1}}'}, "terms must be a text"),
        (
            {"method": "sobel", "options": '{"psi":"layer"}'},
            "The method sobel has no option 'psi' here; it has none.",
        ),
        (
            {"method": "smoothgrad", "options": '{"samples":0}'},
            "samples must be a whole number from 1 to 100 here, not '0'.",
        ),
        (
            {"method": "smoothgrad", "options": '{"samples":1e9}'},
            "samples must be a whole number from 1 to 100 here",
        ),
        ({"method": "smoothgrad", "options": '{"samples":1.5}'}, "samples must be a whole number"),
        ({"method": "smoothgrad", "options": '{"samples":true}'}, "samples must be a whole number"),
        (
            {"method": "smoothgrad", "options": '{"scale":-1}'},
            "scale must be a number from 0 to 10 here",
        ),
        ({"method": "smoothgrad", "options": '{"scale":1e999}'}, "scale must be a number"),
        (
            {"method": "integrated_gradients", "options": '{"baseline":"a"}'},
            "baseline must be a number",
        ),
        (
            {"method": "integrated_gradients", "options": '{"n_steps":100000000}'},
            "n_steps must be a whole number from 1 to 300",
        ),
        (
            {"method": "integrated_gradients", "options": '{"baseline":1' + "0" * 400 + "}"},
            "baseline must be a number",
        ),
        (
            {"method": "integrated_gradients", "options": '{"n_steps":1' + "0" * 400 + "}"},
            "n_steps must be a whole number from 1 to 300",
        ),
        (
            {"method": "random_blobs", "options": '{"grid":1}'},
            "grid must be a whole number from 2 to 256 here, not '1'.",
        ),
        (
            {"method": "random_blobs", "options": '{"grid":1000000}'},
            "grid must be a whole number from 2 to 256 here",
        ),
        ({"method": "random", "options": '{"seed":1e300}'}, "seed must be a whole number"),
        ({"method": "grad_cam", "options": '{"relu":1}'}, "relu must be true or false"),
        (
            {"method": "grad_cam", "options": '{"layer":"nowhere"}'},
            "the model has no layer 'nowhere'",
        ),
        (
            {"method": "grad_cam", "options": '{"layer":"' + "x" * 400 + '"}'},
            "layer must be a text of at most 300",
        ),
        (
            {"model": "1", "method": "guided_backprop"},
            "guided_backprop does not apply to the model",
        ),
    ],
)
def test_wrong_requests_get_a_clear_message(
    small: Running, query: dict[str, str], message: str
) -> None:
    call = ask(small, PHOTOGRAPH, **query)
    last = lines(call.content)[-1]
    assert message in last["error"]
    assert last["kind"] in {"request", "method"}
    assert call.status == 400 or len(lines(call.content)) > 1


def test_a_parameter_given_twice_is_refused(small: Running) -> None:
    call = ask(small, PHOTOGRAPH, raw="target=1&target=2")
    assert (call.status, strict(call.content)["error"]) == (
        400,
        "The parameter 'target' is given twice.",
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    [
        "psi",
        "terms",
        "samples",
        "scale",
        "seed",
        "layer",
        "relu",
        "n_steps",
        "baseline",
        "activation_layouts",
    ]
)


@settings(max_examples=70, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.dictionaries(
        st.sampled_from(["model", "target", "method", "parts", "name", "opacity"])
        | st.text(max_size=8),
        st.sampled_from(["0", "1", "4", "map", *methods.names(), "../..", "\x00"])
        | st.text(max_size=30),
    ),
    options=st.dictionaries(WORDS | st.text(max_size=5), JSON, max_size=3) | st.text(max_size=20),
)
def test_no_query_gets_more_than_a_result_or_a_message(
    small: Running, query: dict[str, str], options: Any
) -> None:
    text = options if isinstance(options, str) else json.dumps(options)
    pairs = urlencode({**query, "options": text}, errors="replace")
    content = encoded(pixels(1)[:12, :12])

    call = ask(small, content, raw=pairs)
    last = lines(call.content)[-1]
    assert call.status in {200, 400}
    if "result" not in last:
        assert set(last) == {"error", "kind"}
        assert last["kind"] in {"request", "method"}, last


def test_an_unforeseen_error_is_logged_and_outlived(
    small: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    status, kind, message = error(small, WHITE, model=2, parts="map")
    assert (status, kind) == (200, "method")  # the model's own failure is reported
    assert "fails on an input of shape 1x3x32x32: KeyError" in message
    assert "secret" not in message
    assert result(small, model=2)["model"] == 2


def test_a_failure_of_the_server_is_logged_and_outlived(
    small: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("cannot open /home/somebody/secret.bin")

    with monkeypatch.context() as patched:
        patched.setattr("fullgrad.app.server.result_of", fail)
        status, kind, message = error(small, PHOTOGRAPH)
        assert (status, kind) == (200, "internal")
        assert message.startswith("Something went wrong in the viewer.")
        err = capsys.readouterr().err
        assert "fullgrad app: unexpected error" in err
        assert "cannot open /home/somebody/secret.bin" in err
        patched.setattr("fullgrad.app.server.compute", fail)
        call = ask(small, PHOTOGRAPH, "/api/download/array")
        assert (call.status, strict(call.content)["kind"]) == (500, "internal")
        patched.setattr("fullgrad.app.server.parse_query", fail)
        call = ask(small, PHOTOGRAPH)
        assert (call.status, strict(call.content)["kind"]) == (500, "internal")
        assert "secret" not in call.content.decode()
    assert result(small)["model"] == 0


def test_running_out_of_memory_is_said(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    for raised in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ):

        def fail(*args: Any, error: BaseException = raised) -> Any:
            raise error

        monkeypatch.setattr("fullgrad.app.server.compute", fail)
        found = error(small, PHOTOGRAPH)
        assert found == (200, "internal", "The viewer ran out of memory for this request.")


def test_outputs_that_are_not_finite_are_refused(small: Running) -> None:
    assert error(small, WHITE, model=3)[1:] == (
        "method",
        "the model's output holds NaN or infinite values; nothing to explain",
    )


def test_a_model_without_a_split_still_has_other_maps(small: Running) -> None:
    assert error(small, PHOTOGRAPH, model=4)[1] == "method"
    found = result(small, model=4, method="grad_cam")
    assert found["stages"] is None
    assert found["waterfall"] is None
    assert found["notes"][0].startswith("There is no split of the logit: ")
    assert "autograd" in found["notes"][0]


def test_a_model_that_cannot_be_copied_is_named(small: Running) -> None:
    class Alone(nn.Module):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("one of a kind")

    model = replace(small.models[0], spec="net.py:alone", module=Alone())
    message = r"net.py:alone cannot be copied .*TypeError: one of a kind.*: start with --workers 1"
    with pytest.raises(ModelLoadError, match=message):
        copies([Served(model, None, 5)], 2)


def test_a_method_that_fails_on_a_trial_does_not_apply(
    small: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise KeyError("x")

    monkeypatch.setattr("fullgrad.app.models.methods.attribute", fail)
    found = serve(small.models[0], None)
    assert set(found.applies) == {"it failed on a trial: KeyError: 'x'"}
