"""``fullgrad evaluate``: models x images x methods x tests, one plan, one store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from fullgrad._code import code_digest
from fullgrad._files import printable
from fullgrad.errors import FullGradError, MethodError, ModelLoadError
from fullgrad.evaluation._own_sources import source_digest
from fullgrad.evaluation.experiment import Test
from fullgrad.evaluation.options import Meter, Option
from fullgrad.evaluation.plan import MethodChoice, digest_of
from fullgrad.evaluation.sources import WAY_OUT, DataError, open_source
from fullgrad.evaluation.statistics import Table
from fullgrad.evaluation.store import Content, Store
from fullgrad.evaluation.tests.evaluate import pictures, pieces, verdicts, words
from fullgrad.evaluation.tests.evaluate.generated_model import load
from fullgrad.evaluation.tests.evaluate.measures import chosen_tests
from fullgrad.evaluation.tests.evaluate.options import chosen_by, declared
from fullgrad.evaluation.tests.evaluate.plan import EvaluatePlan, Model, Unit, content_of
from fullgrad.evaluation.tests.evaluate.subject import Explained, Subject
from fullgrad.evaluation.tests.remove_and_retrain.executors import OnRay
from fullgrad.methods.controls import NOISE
from fullgrad.vision.classification import number_of_classes
from fullgrad.vision.models import STATED, from_options
from fullgrad.vision.provenance import state_digest

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Evaluate(Test):
    """Tests many methods' maps of one or several models.

    Args:
        plan: what is asked for.
        subjects: the models with their images.
        given: the options, from which a worker makes the same again.
        ray: options of :class:`~.executors.OnRay`; None for this process.
    """

    name = "evaluate"
    title = "which method to trust on which model: several tests of the same maps"
    description = """\
Explains images by each method, and tests the maps: removing cells (symmetric relevance gain),
mosaics of images (grid pointing), other classes, random weights, noise, shifted logits. Controls
that know nothing of the model stand beside the methods.

Writes into the results folder
  results.parquet, results.csv   one row for each model, test, image and method
  ranking.csv                    means with standard errors and bootstrap 95 % intervals, the paired
                                 difference to the best with a simultaneous interval, and a verdict
  agreement.csv                  rank correlation of the tests
  scores.png                     means with intervals
  examples.png                   images with the best and the worst maps in the first test
  record.json                    what is needed to run it again, and what it took
  report.html                    all of it on one page, which begins with what it says in words
An interrupted run resumes when it is started again; a finished one is not repeated. Other options
in the same folder replace the results and keep what is done: a further method costs itself alone.
"""
    epilog = """\
examples:
  fullgrad evaluate --images photos/ --out results
  fullgrad evaluate --model mine.py:net --images photos/ --methods balanced_input grad_cam random \\
      --tests relevance-gain --cell 16 --fills mean blur --out results
  fullgrad evaluate --model generated:shapes --images generated:shapes --tests ground-truth \\
      --out known

exit code: 0 all done; 1 some images could not be read, the others are done; 2 a mistake in the
arguments or work that had to stop.
"""
    for_models = True
    replaces = True  # since most pieces are shared
    page = True
    counted = "pieces"
    columns = frozenset({"model", "test", "setting", "case", "method", "value", "scale"})
    meanings: ClassVar[Mapping[str, str]] = verdicts.MEANINGS

    plan: EvaluatePlan
    subjects: tuple[Subject, ...]
    given: tuple[tuple[str, Any], ...]
    ray: Mapping[str, Any] | None = None

    @classmethod
    def declared(cls) -> Sequence[Option]:
        """Return the options, those of the tests among them."""
        return declared()

    @classmethod
    def prepare(
        cls,
        *,
        model: Sequence[str],
        weights: Sequence[str],
        device: str,
        images: str,
        limit: int | None,
        methods: Sequence[str],
        tests: Sequence[str],
        explain: str,
        random_orders: int,
        seed: int,
        batch_size: int,
        executor: str,
        workers: int,
        ray_address: str | None,
        **of_tests: Any,
    ) -> Evaluate:
        """Read the images and load the models."""
        if weights and len(weights) != len(model):
            raise ValueError(
                f"{len(weights)} weights for {len(model)} models: give one for each, "
                "'-' for a model's usual ones"
            )
        if ray_address is not None and executor != "ray":
            raise ValueError("--ray-address needs --executor ray")
        settings = from_options(of_tests)
        of_tests = {k: v for k, v in of_tests.items() if k not in STATED}
        chosen = chosen_tests(tests, "images", of_tests)
        choices = tuple(MethodChoice.parse(text) for text in methods)
        source = open_source(images, limit)
        subjects, named = [], []
        for i, spec in enumerate(model):
            own = not weights or weights[i] == "-"
            m = load(spec, None if own else weights[i], device, settings)
            file, state = content_of(m.spec), state_digest(m)  # before anything goes through it
            named.append(Model(m.spec, m.weights, m.sha256, file, settings.text(), state))
            if number_of_classes(m, WAY_OUT) < 2:
                raise ModelLoadError(
                    f"{spec} returns one number for each image, and evaluate compares classes: "
                    "give a classifier with an output for each of two or more"
                )
            source.check_inputs(m.preprocessing)
            subjects.append(Subject(spec, m, source))
        plan = EvaluatePlan(
            models=tuple(named),
            images=images,
            count=len(source.items),
            content=source.content,
            tests=chosen,
            choices=choices,
            number=explain,
            random_runs=random_orders,
            seed=seed,
            batch_size=batch_size,
        )
        given = {
            "model": tuple(model),
            "weights": tuple(weights),
            "device": device,
            "images": images,
            "limit": limit,
            "methods": tuple(methods),
            "tests": tuple(tests),
            "explain": explain,
            "random_orders": random_orders,
            "seed": seed,
            "batch_size": batch_size,
            **settings.values(),
            **of_tests,
        }
        ray = {"address": ray_address, "workers": workers} if executor == "ray" else None
        return cls(plan, tuple(subjects), tuple(given.items()), ray)

    @cached_property
    def code(self) -> str:
        """Digest of the code that the numbers depend on."""
        return self.with_own(self._code)

    @cached_property
    def _code(self) -> str:
        """Digest of fullgrad's own code alone."""
        used = [type(t).__module__ for t in self.plan.tests]
        used = [name for name in used if name.startswith("fullgrad.")]
        return code_digest(type(self).__module__, "fullgrad.methods", *used)

    def own_sources(self) -> list[str]:
        """Return digests of the files of tests that are not fullgrad's own."""
        kinds = {type(t) for t in self.plan.tests}
        own = [k for k in kinds if not k.__module__.startswith("fullgrad.")]
        return sorted(f"{k.__name__} {source_digest(k.__name__, k)}" for k in own)

    @cached_property
    def refused(self) -> dict[tuple[int, int], str]:
        """Why methods do not apply to models, by the places of both; tried on the first image.

        Raises:
            MethodError: no method applies to a model.
        """
        found = {}
        for m, subject in enumerate(self.subjects):
            for c in range(len(self.plan.choices)):
                try:
                    _ = self.explained(m, c, (0,)).maps
                except FullGradError as error:
                    found[m, c] = " ".join(str(error).split())
            if all((m, c) in found for c in range(len(self.plan.choices))):
                why = found[m, 0]
                raise MethodError(f"no method applies to {subject.name}; the first: {why}")
        return found

    def explained(self, model: int, choice: int, numbers: tuple[int, ...], run: int = 0) -> Any:
        """Return a method's maps of some images of a model.

        Args:
            model: its place in the plan.
            choice: the method's place.
            numbers: of the images.
            run: which one of several maps of noise.
        """
        plan = self.plan
        subject, chosen = self.subjects[model], plan.choices[choice]
        return Explained(subject, chosen, numbers, plan.number, plan.seed, run)

    @cached_property
    def pieces(self) -> list[Unit]:
        """All pieces of work: model by model, batch by batch, method by method."""
        count, size = self.plan.count, self.plan.batch_size
        return [
            Unit(m, c, tuple(range(start, min(start + size, count))))
            for m in range(len(self.subjects))
            for start in range(0, count, size)
            for c in range(len(self.plan.choices))
            if (m, c) not in self.refused
        ]

    @property
    def parts(self) -> int:
        """How many pieces of work there are."""
        return len(self.pieces)

    @property
    def left_out(self) -> int:
        """How many images cannot be read."""
        return len(self.subjects[0].source.excluded)

    def remarks(self) -> list[str]:
        """Return what was assumed, which images are left out, which methods do not apply, why."""
        source = self.subjects[0].source
        said = [text for s in self.subjects for text in s.model.assumed]
        said += [f"excluded: {printable(name)}: {why}" for name, why in source.excluded]
        for (m, c), why in self.refused.items():
            label = self.plan.choices[c].label
            said.append(f"{label} does not apply to {self.subjects[m].name}: {why}")
        return said

    def units(self) -> list[str]:
        """Return the names of the pieces; each depends on one model and one method."""
        plan = self.plan
        shared = {
            "test": self.name,
            "content": plan.content,
            "tests": [t.values() for t in plan.tests],
            "number": plan.number,
            "random_runs": plan.random_runs,
            "seed": plan.seed,
        }
        codes = [self.with_own(self._code, [choice]) for choice in plan.choices]
        return [
            digest_of(
                {
                    **shared,
                    "code": codes[unit.choice],
                    "model": asdict(plan.models[unit.model]),
                    "method": plan.choices[unit.choice].label,
                    "numbers": unit.numbers,
                }
            )
            for unit in self.pieces
        ]

    def part(self, number: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Return the rows of one method's maps of some images, and the seconds of each test."""
        unit = self.pieces[number]
        subject, choice = self.subjects[unit.model], self.plan.choices[unit.choice]
        runs = self.plan.random_runs if choice.name in NOISE else 1
        explained = [
            self.explained(unit.model, unit.choice, unit.numbers, run) for run in range(runs)
        ]
        return pieces.scored(explained, self.plan.tests, subject, choice.label, unit.numbers)

    def work(self, store: Store, meter: Callable[[str], Meter], say: Callable[[str], None]) -> int:
        """Do what is not done, here or on Ray's workers."""
        done = self._work(store, meter, say)
        for r in pieces.refusals(super().rows(store)) if not self.missing(store) else ():
            say(f"{r['method']} does not apply to {r['model']} in {r['test']}: {r['why']}")
        return done

    def _work(self, store: Store, meter: Callable[[str], Meter], say: Callable[[str], None]) -> int:
        if self.ray is None:
            return super().work(store, meter, say)
        units = self.units()
        missing = [n for n, unit in enumerate(units) if not store.has(unit)]
        shown = meter(self.counted)
        finished = 0

        def done(place: int, found: tuple[list[dict[str, Any]], dict[str, float]]) -> None:
            nonlocal finished
            store.put(units[missing[place]], Content({"rows": found[0], "seconds": found[1]}))
            finished += 1
            shown(len(units) - len(missing) + finished, len(units))

        gpus = 1.0 if str(dict(self.given)["device"]).startswith("cuda") else 0.0
        executor = OnRay(**self.ray, gpus=gpus)
        try:
            calls = ((self.given, number) for number in missing)
            executor.run(_part, calls, done, lambda: None)
        finally:
            executor.close()
            shown.end()
        return len(missing)

    def rows(self, store: Store) -> Table:
        """Return the table of all scores; a method that a test refused has none of that test.

        Raises:
            MethodError: no method applies to a model in any test.
            DataError: a model has no scores for another reason.
        """
        every = super().rows(store)
        found = pieces.applied(every)
        known = set(found["model"]) if len(found) else set()
        for name in (s.name for s in self.subjects if s.name not in known):
            tests = ", ".join(t.name for t in self.plan.tests)
            for refused in (r for r in pieces.refusals(every) if r["model"] == name):
                why = refused["why"]
                raise MethodError(f"no method applies to {name} in {tests}; the first: {why}")
            raise DataError(
                f"no image of {name} can be used for {tests}: take other --tests, more images, or "
                "a lower --sure"
            )
        return found

    def refusals(self, store: Store) -> list[dict[str, str]]:
        """Return which methods do not apply to which models, in all tests or in one, and why."""
        return [
            {"model": self.subjects[m].name, "method": self.plan.choices[c].label, "why": why}
            for (m, c), why in self.refused.items()
        ] + pieces.refusals(super().rows(store))

    @classmethod
    def scores(cls, rows: Table, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Return each method's mean under each test and model, so that higher is better."""
        return verdicts.scores(rows)

    def tables(self, rows: Table) -> dict[str, Table]:
        """Return means with verdicts, and how the tests agree."""
        return {"ranking": verdicts.ranking(rows), "agreement": verdicts.agreement(rows)}

    def figures(self, tables: Mapping[str, Table], store: Store) -> dict[str, Figure]:
        """Draw the means with intervals, and the first test's best and worst images.

        Returns:
            ``scores`` and ``examples``; of several models ``scores-1``, ``examples-1`` and so on.
        """
        rows = self.rows(store)
        found: dict[str, Figure] = {}
        tests = words.by_model(tables["ranking"].to_dict("records"))
        for place, subject in enumerate(self.subjects, 1):
            end = f"-{place}" if len(self.subjects) > 1 else ""
            own = tests[subject.name]
            found[f"scores{end}"] = pictures.scores(subject, own)
            if self.page:
                found[f"examples{end}"] = pictures.examples(subject, own[0], self.plan, rows)
        return found

    def text(self, tables: Mapping[str, Table]) -> str:
        """Return the verdicts for people."""
        rows = tables["ranking"].to_dict("records")
        notes = words.cautions(rows, self.base(), [t.name for t in self.plan.tests])
        said = [*words.paragraphs(rows), "\n".join(f"note: {line}" for line in notes)]
        return "\n\n".join(part for part in said if part)

    def base(self) -> dict[str, dict[str, float]]:
        """Return what is known of each model: accuracy, chance, mean probability."""
        return {subject.name: subject.known() for subject in self.subjects}

    def notes(self, store: Store) -> dict[str, Any]:
        """Return what was left out, and what is known of the models."""
        source = self.subjects[0].source
        return {
            "excluded": [{"image": n, "why": w} for n, w in source.excluded],
            "does_not_apply": self.refusals(store),
            "chosen": chosen_by([c.label for c in self.plan.choices]),
            "models": self.base(),
            "device": str(self.subjects[0].model.device),
        }


@lru_cache(maxsize=1)
def _prepared(given: tuple[tuple[str, Any], ...]) -> Evaluate:
    options = dict(given)
    return Evaluate.prepare(**options, executor="here", workers=1, ray_address=None)


def _part(
    given: tuple[tuple[str, Any], ...], number: int, tick: Callable[[], None] | None = None
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """One piece of work on a worker, which keeps models and images for the next one."""
    return _prepared(given).part(number)
