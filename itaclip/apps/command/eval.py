"""`itaclip eval`: evaluate a configuration on its data set. `eval.py` runs the same code."""

from __future__ import annotations

from collections.abc import Sequence

from itaclip.research.evaluation.options import parser as parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an evaluation.

    Returns:
        The exit status, see `itaclip.research.evaluation.command.run`.

    Raises:
        ItaclipError: bad input.
    """
    args = parser().parse_args(arguments)
    from itaclip.research.evaluation.command import run

    return run(args)
