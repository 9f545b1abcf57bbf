"""Digit flipping: erase what makes a digit one class rather than another.

Shrikumar et al. 2017, and the supplement of Srinivas & Fleuret 2019: pixels are ranked by the
signed map for the digit's class less that for another class, the highest positive ones are erased,
and the log-odds of the two classes should change as much as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fullgrad import methods
from fullgrad.engine.model_state import guarded
from fullgrad.errors import FullGradError
from fullgrad.evaluation import statistics
from fullgrad.evaluation.datasets import DIGITS, SIDE, Labeled, open_digits
from fullgrad.evaluation.experiment import Test
from fullgrad.evaluation.options import Meter, Option
from fullgrad.evaluation.plan import MethodChoice, Plan, check_least, digest_of
from fullgrad.evaluation.statistics import Table
from fullgrad.evaluation.store import Content, Store
from fullgrad.evaluation.tests.digit_network import network, trained
from fullgrad.evaluation.training.state import Checkpoint
from fullgrad.methods.controls import NOISE
from fullgrad.viz.digits import Example, flipping_curves, flipping_examples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = (
    "fullgrad",
    "fullgrad/absolute",
    "input_gradient",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam:relu=False",
    "deeplift",
    "random",
)
PAIRS = ((8, 3), (8, 6), (9, 1), (9, 4))
PIXELS = (10, 20, 40, 80, 157)
ABSOLUTE = "absolute"


@dataclass(frozen=True, slots=True)
class Choice:
    """Names a method, and whether its maps keep their sign.

    Args:
        method: with its options.
        signed: otherwise the sizes of its numbers are compared.
    """

    method: MethodChoice
    signed: bool = True

    @property
    def label(self) -> str:
        """The name in tables and figures."""
        plain = self.signed or self.method.name in NOISE
        return self.method.label if plain else f"{self.method.label} ({ABSOLUTE})"

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Read ``METHOD``, ``METHOD:OPTION=VALUE,...``, either with ``/absolute`` behind.

        Raises:
            ValueError: an unknown method or option, or one without a sign.
        """
        name, slash, rest = text.partition("/")
        if ".py:" in text:  # folders have slashes, too
            name, slash, rest = text.removesuffix(f"/{ABSOLUTE}"), "", ""
            if name != text:
                slash, rest = "/", ABSOLUTE
        if slash and rest != ABSOLUTE:
            raise ValueError(f"{text!r}: only '/{ABSOLUTE}' may stand behind a method")
        method = MethodChoice.parse(name)
        found = methods.get(method.name)
        if not slash and method.name not in NOISE:
            found.require_sign(found.settings(method.options))
        return cls(method, not slash and method.name not in NOISE)


@dataclass(frozen=True, kw_only=True)
class FlippingPlan(Plan):
    """Holds all that the numbers depend on, but for the code.

    Args:
        digits: where they come from.
        content: digest of them.
        choices: the methods.
        pairs: (class of the digits, class that they are compared with).
        pixels: how many are erased, ascending.
        count: digits of each pair, at most.
        test_share: of the digits, that the network does not learn from.
        epochs: of its training.
        seed: of everything.

    Raises:
        ValueError: pairs, pixels or counts that cannot be.
    """

    digits: str
    content: str
    pairs: tuple[tuple[int, int], ...] = PAIRS
    pixels: tuple[int, ...] = PIXELS
    count: int = 50
    test_share: float = 0.2
    epochs: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for a, b in self.pairs:
            if not (0 <= a < DIGITS and 0 <= b < DIGITS) or a == b:
                raise ValueError(f"a pair is two different digits, not {a} and {b}")
        if len(set(self.pairs)) != len(self.pairs) or not self.pairs:
            raise ValueError("pairs must be given once each, at least one")
        if not self.pixels or list(self.pixels) != sorted(set(self.pixels)) or self.pixels[0] < 1:
            raise ValueError("pixels must be positive, once each, in ascending order")
        if self.pixels[-1] > SIDE**2:
            raise ValueError(f"a digit has {SIDE**2} pixels, {self.pixels[-1]} cannot be erased")
        check_least(self, count=1, epochs=1)
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must lie between 0 and 1, not {self.test_share}")


def ranked(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixels in the order of their erasure, and how many of them are positive.

    Args:
        difference: map for the digit's class less that for the other, shape (B, 1, H, W).

    Returns:
        Shapes (B, H·W) and (B,).
    """
    flat = difference.flatten(1)
    return flat.argsort(dim=1, descending=True, stable=True), (flat > 0).sum(1)


def erased(x: Tensor, order: Tensor, positive: Tensor, count: int) -> Tensor:
    """Return digits with up to ``count`` of their highest positive pixels set to the background."""
    place = torch.arange(order.shape[1], device=x.device)
    chosen = (place < count) & (place < positive[:, None])
    gone = torch.zeros_like(chosen).scatter_(1, order, chosen)
    return x.masked_fill(gone.view(len(x), 1, *x.shape[2:]), 0.0)


@dataclass(frozen=True, eq=False)
class DigitFlipping(Test):
    """Erases what makes a digit one class rather than another.

    Args:
        plan: what is asked for.
        learn: digits to train the network with.
        test: digits that it has not seen.
        module: the trained network; None to take it from the store, or to train it.
    """

    name = "digit-flipping"
    title = "erase the pixels that make one digit rather than another"
    description = """\
Erases the pixels that make a handwritten digit one class rather than another, by the signed map for
its class less that for the other, and measures by how much the log-odds fall (Shrikumar et al.
2017; supplement of Srinivas & Fleuret 2019). A small network is trained on the digits first.

Writes into the results folder results.parquet, results.csv, summary.csv, ranking.csv,
differences.csv, curves.png (log-odds against pixels), examples.png (digits before and after) and
record.json. An interrupted run resumes; a finished one is not repeated.
"""
    options = (
        Option(
            "--digits",
            "folder with MNIST's idx files, image folder with 0/ to 9/, or torchvision:ROOT",
            required=True,
        ),
        Option("--download", "let torchvision fetch the digits", False, bool),
        Option(
            "--methods",
            "METHOD, METHOD:OPTION=VALUE,..., own.py:FUNCTION, or any with /absolute",
            METHODS,
        ),
        Option(
            "--pairs",
            "pairs of digits A-B: erase what makes A rather than B",
            tuple(f"{a}-{b}" for a, b in PAIRS),
        ),
        Option("--pixels", "how many are erased at most; 157 are a fifth", PIXELS, int),
        Option("--count", "digits of each pair", 50, int),
        Option(
            "--test-share", "share of the digits that the network does not learn from", 0.2, float
        ),
        Option("--epochs", "epochs of the network's training", 5, int),
        Option("--seed", "seed of everything that is random", 0, int),
    )
    columns = frozenset({"pair", "digit", "method", "pixels", "change"})
    counted = "pairs of digits"

    plan: FlippingPlan
    learn: Labeled
    test: Labeled
    module: nn.Module | None = None
    _loaded: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls,
        *,
        digits: str,
        download: bool,
        methods: tuple[str, ...],
        pairs: tuple[str, ...],
        pixels: tuple[int, ...],
        **plan: Any,
    ) -> DigitFlipping:
        """Read the digits."""
        found = open_digits(digits, download)
        made = FlippingPlan(
            digits=digits,
            content=found.digest(),
            choices=tuple(Choice.parse(text) for text in methods),
            pairs=tuple(map(_pair, pairs)),
            pixels=tuple(sorted(pixels)),
            **plan,
        )
        return cls(made, *found.split(made.test_share, made.seed))

    @property
    def parts(self) -> int:
        """How many pairs there are."""
        return len(self.plan.pairs)

    @property
    def model(self) -> nn.Module:
        """The trained network."""
        module: nn.Module = self.module or self._loaded["module"]
        return module

    @property
    def _network(self) -> str:
        """The name of the trained network in the store."""
        plan = self.plan
        values = [plan.content, plan.test_share, plan.epochs, plan.seed, self.code]
        return digest_of({"network": values})

    def missing(self, store: Store) -> list[str]:
        """Return the names of the pieces that are not done, the network first."""
        network = [] if store.has(self._network) else [self._network]
        return network + super().missing(store)

    def _load(self, store: Store, meter: Callable[[str], Meter] | None = None) -> None:
        """Take the network from the store; with a meter, train it where it is not there."""
        found = store.get(self._network) if meter else store.done(self._network)
        if found is None:
            assert meter is not None
            shown, done, epochs = meter("network: epochs"), [0], self.plan.epochs

            def tick() -> None:
                done[0] += 1
                shown(done[0], epochs)

            try:
                made = trained(
                    self.learn,
                    self.test,
                    epochs,
                    self.plan.seed,
                    tick,
                    Checkpoint(store, [self._network]),
                )
            finally:
                shown.end()
            found = Content(
                {"accuracy": made.accuracy, "seconds": made.seconds},
                {name: t.numpy() for name, t in made.state.items()},
            )
            store.put(self._network, found)
        module = network().eval()
        module.load_state_dict({name: torch.from_numpy(a) for name, a in found.arrays.items()})
        self._loaded.update(module=module, accuracy=found.values["accuracy"])

    def work(self, store: Store, meter: Callable[[str], Meter], say: Callable[[str], None]) -> int:
        """Train the network and do the pairs, as far as they are not done."""
        store.mend()
        self._load(store, meter)
        return super().work(store, meter, say)

    def rows(self, store: Store) -> Table:
        """Return a row for each digit, method and number of pixels."""
        found = super().rows(store)
        if not len(found):
            raise FullGradError("no test digit of these pairs is classified right by the network")
        return found

    def chosen(self, a: int) -> Tensor:
        """Return indices of the test digits of a class that are classified right."""
        own = (self.test.labels == a).nonzero()[:, 0]
        with guarded(self.model, evaluate=True), torch.no_grad():
            right = self.model(self.test.rows(own).inputs()).argmax(1) == a
        return own[right][: self.plan.count]

    def difference(self, choice: Choice, x: Tensor, a: int, b: int) -> Tensor:
        """Return the map for one class less that for another, shape (B, 1, 28, 28)."""
        name, options = choice.method.name, dict(choice.method.options)
        if name in NOISE:
            options["seed"] = options.get("seed", 0) + self.plan.seed + 100 * a + b
            return methods.attribute(name, self.model, x, a, **options)
        first, second = (
            methods.attribute(name, self.model, x, digit, signed=choice.signed, **options)
            for digit in (a, b)
        )
        return first - second

    def part(self, number: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Return the rows of one pair of digits."""
        a, b = self.plan.pairs[number]
        index = self.chosen(a)
        x = self.test.rows(index).inputs()
        rows: list[dict[str, Any]] = []
        if not len(index):
            return rows, {}
        before = self.log_odds(x, a, b)
        for choice in self.plan.choices:
            order, positive = ranked(self.difference(choice, x, a, b))
            for count in self.plan.pixels:
                after = self.log_odds(erased(x, order, positive, count), a, b)
                rows += [
                    {
                        "pair": f"{a}→{b}",
                        "digit": int(index[i]),
                        "method": choice.label,
                        "pixels": count,
                        "erased": min(count, int(positive[i])),
                        "odds_before": float(before[i]),
                        "odds_after": float(after[i]),
                        "change": float(before[i] - after[i]),
                    }
                    for i in range(len(index))
                ]
        return rows, {}

    def log_odds(self, x: Tensor, a: int, b: int) -> Tensor:
        """Return log-odds of two classes: the difference of their logits, shape (B,), float64."""
        with guarded(self.model, evaluate=True), torch.no_grad():
            logits = self.model(x).double()
        odds: Tensor = logits[:, a] - logits[:, b]
        return odds

    @classmethod
    def scores(cls, rows: Table, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mean fall of the log-odds at the most pixels, each pair counting alike."""
        most = rows[rows["pixels"] == max(plan["pixels"])]
        by_pair = most.groupby(["method", "pair"], sort=False)["change"].mean()
        return {"digits flipped": by_pair.groupby("method", sort=False).mean()}

    def tables(self, rows: Table) -> dict[str, Table]:
        """Return means by pair, and methods ranked and compared at the most pixels."""
        most = rows[rows["pixels"] == self.plan.pixels[-1]]
        most = most.assign(case=most["pair"] + " " + most["digit"].astype(str))
        by = ["pair", "method", "pixels"]
        return {
            "summary": statistics.summary(rows, by, "change", "digits", means=["erased"]),
            "ranking": statistics.ranking(most, [], lambda key: True, "change", "digits"),
            "differences": statistics.differences(most, [], "case", "change"),
        }

    def figures(self, tables: Mapping[str, Table], store: Store) -> dict[str, Figure]:
        """Draw the curves, and digits before and after."""
        self._load(store)
        most = self.plan.pixels[-1]
        right = self._loaded["accuracy"]
        note = f"Network: {right:.1%} of {len(self.test)} test digits right."
        return {
            "curves": flipping_curves(tables["summary"], note),
            "examples": flipping_examples(self._examples(most), most),
        }

    def notes(self, store: Store) -> dict[str, Any]:
        """Return the network's accuracy."""
        return {"accuracy": store.done(self._network).values["accuracy"]}

    def _examples(self, pixels: int) -> list[Example]:
        """Return the first digit of each pair."""
        found = []
        for a, b in self.plan.pairs:
            index = self.chosen(a)[:1]
            if not len(index):
                continue
            x = self.test.rows(index).inputs()
            after, changes = {}, {}
            for choice in self.plan.choices:
                order, positive = ranked(self.difference(choice, x, a, b))
                gone = erased(x, order, positive, pixels)
                after[choice.label] = gone[0, 0].numpy()
                odds = self.log_odds(torch.cat([x, gone]), a, b)
                changes[choice.label] = float(odds[0] - odds[1])
            found.append(Example(f"{a}→{b}", x[0, 0].numpy(), after, changes))
        return found

    def text(self, tables: Mapping[str, Table]) -> str:
        """Return the ranking for people."""
        head = f"fall of the log-odds with {self.plan.pixels[-1]} pixels erased (higher is better)"
        return "\n".join([head, *statistics.ranking_text(tables["ranking"], "change", "digits")])


def _pair(text: str) -> tuple[int, int]:
    a, dash, b = text.partition("-")
    if not (dash and a.isdecimal() and b.isdecimal()):
        raise ValueError(f"--pairs {text!r} is not of the form A-B, like 8-3")
    return int(a), int(b)
