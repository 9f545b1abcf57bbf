"""The exact decomposition of a model's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad._options import takes_options
from fullgrad.axes.layouts import ActivationLayouts, InputLayout
from fullgrad.decomposition.result import BiasTerm, Decomposition
from fullgrad.engine.backward import product, widen
from fullgrad.engine.inputs import Inputs
from fullgrad.engine.pipeline import Totals, explain
from fullgrad.engine.request import Detached, Mode, Request, Traced
from fullgrad.engine.targets import Target
from fullgrad.engine.terms import Term
from fullgrad.operations.linearization import Linearization, Named


class Keep:
    """Keeps every term as it comes, for the full decomposition.

    Args:
        traced: the recorded forward.
    """

    def __init__(self, traced: Traced) -> None:
        self._traced = traced
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def term(self, term: Term) -> Tensor:
        bias = term.bias()
        whole = replace(term, gradient=widen(term.gradient))
        sums = [
            term.sums(product(g, b, term.may_be_infinite), n)
            for g, b, n, _ in whole.parts(bias=bias)
        ]
        # A bias read straight off a parameter must not follow the parameter's later training.
        owned = any(
            bias.untyped_storage().data_ptr() == h.untyped_storage().data_ptr()
            for h in term.entry.held
        )
        self._kept[term.place] = (whole.gradient, bias.clone() if owned else bias)
        return torch.cat(sums)

    def result(self, totals: Totals) -> Decomposition:
        """The decomposition, its terms in order of execution."""
        traced = self._traced
        entries = traced.tape.entries
        terms = (
            BiasTerm(
                module=entries[place].module,
                op=entries[place].op,
                kind=entries[place].bias.kind,
                gradient=gradient,
                bias=bias,
                sums=totals.sums[place],
                batch_axis=totals.axes[place],
                axes=traced.axes_of(entries[place]),
                may_be_infinite=entries[place].bias.may_be_infinite,
            )
            for place, (gradient, bias) in sorted(self._kept.items(), key=itemgetter(0))
        )
        return Decomposition(
            output=traced.output.detach(),
            target=traced.selected.index,
            output_source=traced.selected.source,
            inputs=tuple(leaf.detach().clone() for leaf in traced.prepared.leaves),
            input_names=traced.prepared.names,
            input_gradients=totals.input_gradients,
            input_sums=totals.input_sums,
            bias_terms=tuple(terms),
            residual=totals.residual,
            scale=totals.scale,
            tolerance=totals.tolerance,
            general_path=traced.general,
            layouts=traced.layouts,
            linearization=traced.linearization,
        )


@takes_options("decompose", places="activation_layouts")
def decompose(
    model: nn.Module,
    inputs: Inputs,
    target: Target = None,
    *,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    mode: Mode = "eval",
    per_sample: bool = True,
    detached: Detached = "error",
    tolerance: float | None = None,
    layout: InputLayout = None,
    activation_layouts: ActivationLayouts | None = None,
    linearization: Named | Linearization = "jacobian",
) -> Decomposition:
    """Split a model's output exactly into an input term and one term per bias.

    Srinivas & Fleuret 2019, proposition 1, with the implicit bias b = y - sum J u of *every*
    operation, so that f(x) = <grad f, x> + sum <df/dy, b> holds for any differentiable program.

    Args:
        model: any ``nn.Module``. It is given back as it was, after failures too.
        inputs: a batch: a tensor; a tuple of tensors, passed in order; or a dict, passed by
            keyword. Float tensors are explained, integer ones passed through.
        target: the explained scalar f: a class index; one index per sample; a tuple of indices
            into a dense output, or one tuple per sample; a callable from the model's output to
            shape (B,), such as those of :mod:`fullgrad.targets`; or None for the predicted class.
        additional_forward_args: a value or tuple passed after the inputs, unexplained: what it
            adds counts as bias.
        forward_kwargs: keyword arguments for the model, unexplained.
        mode: ``"eval"`` explains the model in evaluation mode, ``"as_is"`` exactly as it stands.
            With batch statistics (training-mode batch-norm) samples depend on each other: explain
            one sample, or use ``per_sample=False``.
        per_sample: give each sample its own sums; otherwise the sums are over the batch, and
            ``input_sums``, ``residual`` and every term's ``sums`` have shape (1,).
        detached: what to do about values that depend on the input but were detached:
            ``"error"``, or ``"constant"`` to count them as biases. Those that are only added or
            subtracted, and that the output does not depend on (the maximum before a softmax), are
            no error.
        tolerance: largest accepted relative residual; default by dtype
            (:data:`fullgrad.engine.verification.TOLERANCES`).
        layout: what the input's axes hold, one letter each: ``B`` samples, ``C`` channels,
            others are positions: ``"BTC"``, ``"TBC"`` (time first), ``"BT"``; one for each
            explained input if there are several. None: (B, C, positions...) for inputs of 3 to 5
            axes; a map is refused where the model reads them otherwise. It decides where terms
            lie (:attr:`BiasTerm.axes`), never what they are.
        activation_layouts: layouts of activations that axis propagation cannot
            follow, from module path to a layout (or a
            list of them) in the input's letters: ``{"stages.2.attn": "B (H W) C"}``.
        linearization: which linear maps stand for the operations: ``"jacobian"``, the paper's;
            ``"balanced"``, which leaves little to implicit biases; or a
            :class:`fullgrad.Linearization`. The sum is proved for each of them.

    Returns:
        The frozen :class:`Decomposition`, its sum proved.

    Raises:
        InputError: inputs that cannot be explained.
        OutputError: an output without a float tensor, or with NaN or infinite values.
        TargetError: a target that does not fit the output.
        ModelError: a scripted model, a custom autograd function, samples that depend on each
            other.
        UnsupportedOperationError: operations without rule and forward-mode derivative, all listed.
        BlockedGradientError: the input reaches the output outside autograd.
        CompletenessError: the terms do not sum to the output; names where.
        LayoutError: a stated layout that does not fit.
        OptionError: an option that there is not; a ``TypeError``.

    Example:
        >>> import torch, fullgrad
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.GELU())
        >>> d = fullgrad.decompose(model, torch.ones(2, 4), target=1)
        >>> [(t.module, t.kind) for t in d.bias_terms]
        [('0', 'explicit'), ('1', 'implicit')]
        >>> torch.allclose(d.output.double(), d.input_sums + d.bias_sums, atol=1e-5)
        True
    """
    request = Request(
        model,
        inputs,
        target,
        additional_forward_args,
        forward_kwargs,
        mode,
        per_sample,
        detached,
        tolerance,
        layout,
        activation_layouts,
        linearization,
    )
    return explain(request, Keep)
