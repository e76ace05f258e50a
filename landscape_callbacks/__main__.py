"""``python -m landscape_callbacks <command>``: what can be done outside of a training run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "interpolate": "draw the loss on the line between two checkpoints, or on the plane through three",
    "report": "write the landscape of a run as one self-contained HTML page",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names. Only that one is loaded.

    Args:
        arguments: Of the command line; ``sys.argv[1:]`` when ``None``.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m landscape_callbacks", description="Look at loss landscapes.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    chosen = next((argument for argument in given if not argument.startswith("-")), None)
    for name, description in COMMANDS.items():
        command = commands.add_parser(name, help=description, description=f"{description[0].upper()}{description[1:]}.")
        if name == chosen:
            import_module(f"landscape_callbacks.commands.{name}").add_arguments(command)
    parsed = parser.parse_args(given)
    status: int = import_module(f"landscape_callbacks.commands.{parsed.command}").main(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
