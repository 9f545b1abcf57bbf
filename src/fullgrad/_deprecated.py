"""Modules under the names that they had before: each still works, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# From the old name to the new one, both below ``fullgrad``.
MOVED = {
    "aggregation": "maps.aggregation",
    "batches": "maps.minibatches",
    "checkpoints": "vision.checkpoints",
    "completeness": "engine.verification",
    "embeddings": "maps.tokens.embeddings",
    "experiments": "evaluation",
    "experiments.linear_regions": "evaluation.theory.linear_regions",
    "experiments.digit_flipping": "evaluation.tests.digit_flipping",
    "experiments.digits": "evaluation.datasets",
    "experiments.fills": "evaluation.removal",
    "experiments.pixel_perturbation": "evaluation.tests.pixel_perturbation",
    "experiments.roar": "evaluation.tests.remove_and_retrain",
    "experiments.roar.data": "evaluation.datasets",
    "experiments.roar.executors": "evaluation.tests.remove_and_retrain.executors",
    "experiments.roar.imputation": "evaluation.imputation",
    "experiments.roar.networks": "evaluation.training.networks",
    "experiments.roar.removal": "evaluation.removal",
    "experiments.roar.results": "evaluation.tests.remove_and_retrain.tables",
    "experiments.roar.store": "evaluation.store",
    "experiments.roar.training": "evaluation.training.loop",
    "experiments.theory": "evaluation.theory.properties",
    "explanation": "engine.pipeline",
    "images": "vision.images",
    "inputs": "engine.inputs",
    "interfaces": "interop",
    "interfaces.captum_style": "interop.captum",
    "interfaces.grad_cam": "interop.grad_cam",
    "interfaces.quantus": "interop.quantus",
    "labels": "vision.labels",
    "models": "vision.models",
    "photographs": "vision.image_result",
    "render": "viz",
    "render.regions": "evaluation.theory.figure",
    "render.roar": "evaluation.tests.remove_and_retrain.figures",
    "rules": "operations",
    "smooth": "maps.smoothing",
    "tokens": "maps.tokens",
    "viz.roar": "evaluation.tests.remove_and_retrain.figures",
}
_HOME = "fullgrad."


def _renamed(name: str) -> str | None:
    """The full new name of a module, None if it never moved."""
    parts = name.removeprefix(_HOME).split(".") if name.startswith(_HOME) else []
    for length in range(len(parts), 0, -1):
        new = MOVED.get(".".join(parts[:length]))
        if new is not None:
            return _HOME + ".".join([new, *parts[length:]])
    return None


class _MovedModules(MetaPathFinder, Loader):
    """Finds a module under its old name, and loads the one of the new name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = _renamed(fullname)
        return None if new is None else ModuleSpec(fullname, self, origin=new)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        assert spec.origin is not None
        module = importlib.import_module(spec.origin)
        warnings.warn(
            f"{spec.name} is now {spec.origin}; the old name will be removed in version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has been executed under its new name, and keeps that."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


class _MapsSaliency(ModuleType):
    """The module ``fullgrad.saliency`` as it was: the package has a function of that name now.

    It is put into ``sys.modules`` beforehand, so that importing from it leaves the function alone.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        new = f"{_HOME}maps.saliency"
        warnings.warn(
            f"{_HOME}saliency.{name} is now {new}.{name}; the old name will go in version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(new), name)


def install() -> None:
    """Let Python find modules under their old names."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MovedModules())
    sys.modules.setdefault(f"{_HOME}saliency", _MapsSaliency(f"{_HOME}saliency"))


def renamed(
    module: str, names: Mapping[str, str], otherwise: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that finds names under what they were called before.

    Args:
        module: its name.
        names: from the old names to the new ones.
        otherwise: asked for any other name.
    """

    def __getattr__(name: str) -> Any:
        if name not in names and otherwise is not None:
            return otherwise(name)
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is now {names[name]}; the old name will be removed in version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], names[name])

    return __getattr__
