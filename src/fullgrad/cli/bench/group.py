"""``fullgrad bench``: the paper's experiments, each a command of its own."""

from __future__ import annotations

import argparse
import importlib

EXPERIMENTS = {
    "pixel-perturbation": (
        "fullgrad.cli.bench.pixels",
        "remove pixels in the order of each method's map, and measure the output's change",
    ),
    "digit-flipping": (
        "fullgrad.cli.bench.digits",
        "erase the pixels that make one digit rather than another",
    ),
    "agreement": (
        "fullgrad.cli.bench.agreement",
        "how methods rank under each test of several runs",
    ),
    "roar": (
        "fullgrad.cli.bench.roar",
        "remove the most salient pixels of all images, retrain, and measure the accuracy",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of every experiment."""
    parser.description = "The paper's experiments. Interrupted runs go on where they were."
    experiments = parser.add_subparsers(dest="experiment", metavar="EXPERIMENT", required=True)
    for name, (module, text) in EXPERIMENTS.items():
        sub = experiments.add_parser(
            name,
            help=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        importlib.import_module(module).add_arguments(sub)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was done, or what was done is kept.
    """
    module = importlib.import_module(EXPERIMENTS[args.experiment][0])
    code: int = module.run(args)
    return code
