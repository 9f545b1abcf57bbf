"""A worker's part of a request: one image explained, with progress."""

from __future__ import annotations

from collections.abc import Callable

from fullgrad.app.models import Served
from fullgrad.app.names import method_title
from fullgrad.app.pool import Steps, WorkerModels
from fullgrad.app.query import Query
from fullgrad.app.refusal import Refusal
from fullgrad.app.upload import Limits, decode_upload
from fullgrad.errors import FullGradError, TargetError
from fullgrad.vision.image_result import ImageResult, Part, Stage, explain_images

TOP = 10
PARTS: dict[str, tuple[Part, ...]] = {"all": ("map", "split", "layers"), "map": ("map",)}
_PASSES = {"integrated_gradients": "n_steps", "smoothgrad": "samples", "smooth_fullgrad": "samples"}


def compute(
    content: bytes,
    query: Query,
    served: Served,
    limits: Limits,
    worker: WorkerModels,
    steps: Steps,
    depth: int | None = None,
    top: int = TOP,
) -> ImageResult:
    """Explain an uploaded image.

    Args:
        content: the uploaded file.
        query: what is asked for.
        served: the model's class names.
        limits: the limits of an upload.
        worker: the worker's copies of the models.
        steps: receives each stage of the work.
        depth: the components of a module path that make a stage; None for a few stages.
        top: the number of the most probable classes.

    Raises:
        Refusal: the upload is not a photograph, or an option does not fit the model.
        FullGradError: the model or method cannot do it.
        Abandoned: nobody waits any more.
    """
    steps.stage("reading", "reading the photograph")
    photograph = decode_upload(content, query.name, limits)
    try:
        (found,) = explain_images(
            worker.models[query.model],
            [photograph],
            names=served.names,
            target=query.target,
            rather_than=query.rather_than,
            method=query.method if "method" in query.model_fields_set else None,
            options=query.options,
            parts=PARTS[query.parts],
            depth=depth,
            top=top,
            on_stage=_reporter(query, steps),
        )
    except TargetError as error:
        if query.rather_than is None or query.target is not None:
            raise
        raise Refusal(_itself(query.rather_than, served)) from error
    except FullGradError:
        raise
    except ValueError as error:  # an option that does not fit the model
        raise Refusal(f"{query.method.name}: {error}") from error
    return found


def _itself(index: int, served: Served) -> str:
    name = served.names[index] if served.names else f"class {index}"
    return (
        f"The most probable class is {name} itself, so there is nothing to compare it with. Choose "
        "another class at 'Rather than', or none, or another class to explain."
    )


def _reporter(query: Query, steps: Steps) -> Callable[[Stage, str], None]:
    option = _PASSES.get(query.method.name)

    def report(stage: Stage, text: str) -> None:
        passes = None
        if stage == "map" and option is not None:
            passes = getattr(query.method.settings(query.options), option)
        title = method_title(query.method.name)
        steps.stage(
            "explaining", text.replace(f"the {query.method.name} map", f"the {title} map"), passes
        )

    return report
