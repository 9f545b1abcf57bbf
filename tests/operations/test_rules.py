"""Every bias rule against its definition, b = y - jvp(op, u, u), over what may depend."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fullgrad.operations.registry import register, registered
from rule_cases import Case, defined_biases, outputs_of, recorded_biases, subsets
from rule_table import ALL

# Cannot run on a CPU; the formulas are shared with operations that are tested.
GPU_ONLY = {"cudnn_batch_norm", "miopen_batch_norm", "_fused_rms_norm", "cudnn_grid_sampler"}
ATTENTION_ELSEWHERE = {
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
}

_seen: set[str] = set()


class _Spy(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _seen.add(func._schema.name.split("::")[-1].removesuffix("_"))
        return func(*args, **(kwargs or {}))


RUNS = [
    pytest.param(case, depend, id=f"{i}-{case.note or 'op'}-{depend}")
    for i, case in enumerate(ALL)
    for depend in subsets(case.vary)
]


@pytest.mark.parametrize(("case", "depend"), RUNS)
def test_rule_is_the_forward_mode_definition(case: Case, depend: tuple[int, ...]) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(3)
    values = [make(generator) for make in case.args]
    with _Spy():
        case.op(*[v.clone() for v in values])
    got = recorded_biases(case, values, depend)
    expected = defined_biases(case, values, depend)
    for g, e in zip(got, expected, strict=True):
        # A masked position (-inf) has an undefined derivative and no gradient.
        finite = torch.isfinite(e.abs())
        torch.testing.assert_close(g[finite], e[finite], rtol=1e-9, atol=1e-9)


def test_rules_run_on_another_device() -> None:
    """Tensors without numbers stand for a GPU: a constant of another device would be refused."""
    ran, read = 0, 0
    for case in ALL:
        if "MASK" in getattr(getattr(case.op, "__code__", None), "co_names", ()):
            continue  # it lies on the CPU
        generator = torch.Generator(torch.get_default_device()).manual_seed(3)
        given = [make(generator).to("meta") for make in case.args]
        with torch.device("meta"):
            try:
                result = case.op(*[v.clone() for v in given])
            except (NotImplementedError, RuntimeError):
                continue  # no such kernel, or another constant of the case
            try:
                got = recorded_biases(case, given, case.vary)
            except RuntimeError as error:
                assert "cannot be called on meta tensors" in str(error)
                read += 1
                continue
        outputs = outputs_of(result)
        assert [(g.shape, g.device.type) for g in got] == [(o.shape, "meta") for o in outputs]
        ran += 1
    assert ran > 200 and read < 30  # rules that read numbers


def test_every_rule_is_in_the_table() -> None:
    for case in ALL:
        generator = torch.Generator(torch.get_default_device()).manual_seed(3)
        with _Spy():
            case.op(*[make(generator) for make in case.args])
    names = {name.split("::")[-1] for name, entry in registered().items() if entry.bias}
    left = names - _seen - GPU_ONLY - ATTENTION_ELSEWHERE
    assert left == {
        "roi_align",
        "ps_roi_align",
        "roi_pool",
        "grid_sampler_2d",  # tests/operations/test_sampling.py
        "deform_conv2d",  # tests/operations/test_deformable.py
        "_pack_padded_sequence",  # tests/engine/test_unusual_tensors.py
        "_scaled_dot_product_flash_attention_for_cpu",
    }


def test_a_second_rule_for_an_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="aten::relu has a bias rule already"):
        register("relu", lambda call: (), family="linear")
