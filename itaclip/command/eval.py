"""`itaclip eval`: evaluate a configuration on its data set. `eval.py` runs the same code."""

from __future__ import annotations

from collections.abc import Sequence

from itaclip.evaluation.options import parser as parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an evaluation.

    Returns:
        The exit status, see `itaclip.evaluation.command.run`.

    Raises:
        ItaclipError: bad input.
    """
    args = parser().parse_args(arguments)
    from itaclip.evaluation.command import run

    return run(args)
