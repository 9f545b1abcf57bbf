"""``fullgrad methods``: the saliency methods that can be asked for by name."""

from __future__ import annotations

import argparse
import json

from fullgrad.methods.listing import listing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad methods``."""
    parser.description = "Lists the saliency methods: name, what it computes, options, source."
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.
    """
    listed = listing()
    if args.json:
        print(json.dumps(listed, indent=2))
        return 0
    for method in listed:
        print(f"{method['name']}\n    {method['about']}")
        if method["options"]:
            given = ", ".join(f"{k}={v!r}" for k, v in method["options"].items())
            print(f"    options: {given}")
        if method["reference"]:
            print(f"    {method['reference']}")
    return 0
