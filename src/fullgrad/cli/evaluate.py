"""``fullgrad evaluate``: which map to trust on one's own model, on one page."""

from __future__ import annotations

import argparse

from fullgrad.cli.bench import add_test_arguments, run_test
from fullgrad.evaluation.tests.evaluate.run import Evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad evaluate``, those of ``fullgrad bench evaluate``."""
    add_test_arguments(parser, Evaluate)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: a mistake in the arguments, or work that had to stop; what is done is kept.
    """
    return run_test(args, Evaluate.name)
