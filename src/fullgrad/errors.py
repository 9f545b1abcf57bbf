"""Every error the library raises on purpose.

All derive from :class:`FullGradError`, so one ``except`` catches them. Arguments of an impossible
value or type are Python's own ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations


class FullGradError(Exception):
    """Base of every error that fullgrad raises on purpose."""


class OptionError(FullGradError, TypeError, ValueError):
    """A call was given an option that it does not take."""


class InputError(FullGradError, ValueError):
    """The inputs cannot be explained: wrong type, no float tensor, NaN or infinity."""


class TargetError(FullGradError, ValueError):
    """The target does not select one scalar per sample of the model's output."""


class OutputError(FullGradError, ValueError):
    """The model's output holds nothing that can be explained."""


class ModelError(FullGradError, RuntimeError):
    """The model is of a kind that cannot be explained (a ``ScriptModule``, for example)."""


class UnsupportedOperationError(ModelError):
    """Operations without a bias rule and without a forward-mode derivative."""


class GraphError(ModelError):
    """A graph cannot hold the call, so it is neither compiled nor exported; it runs eagerly."""


class BlockedGradientError(ModelError):
    """A value that depends on the input reaches the output outside the autograd graph."""


class CompletenessError(FullGradError, ArithmeticError):
    """The terms do not sum to the output within the stated tolerance."""


class LayoutError(FullGradError, ValueError):
    """It is not known where a term's numbers lie in the input."""


class MethodError(FullGradError, ValueError):
    """A saliency method does not apply to the model."""


class ImageError(FullGradError, ValueError):
    """A file is not a photograph that can be read."""


class ModelLoadError(FullGradError, ValueError):
    """A model or its weights cannot be loaded."""


class StoredError(FullGradError, ValueError):
    """A file is not a stored result that can be read, or cannot be written."""


class MissingDependencyError(FullGradError, ImportError):
    """An optional package is not installed."""


class UsageError(FullGradError):
    """What was asked for cannot be done; nothing has been."""
