"""Problems found by a check, grouped by kind so that 10^5 similar ones take one row."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

_EXAMPLES = 3
_LOG_WIDTH = 240


@dataclass
class Finding:
    """One kind of problem.

    Attributes:
        remedy: what to do about it.
        count: number of occurrences.
        examples: the first few occurrences.
    """

    remedy: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Findings:
    """Problems by kind, in the order of their first occurrence."""

    def __init__(self) -> None:
        self.kinds: dict[str, Finding] = {}

    def add(self, what: str, remedy: str, example: str) -> None:
        """Add one occurrence of a problem."""
        finding = self.kinds.setdefault(what, Finding(remedy))
        finding.count += 1
        if len(finding.examples) < _EXAMPLES:
            finding.examples.append(example)

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def show(self, console: Console, title: str) -> None:
        """Print the table; without a terminal it is wide, so that paths in logs are not cut."""
        if not console.is_terminal:
            console.width = _LOG_WIDTH
        console.print(self.table(title))

    def table(self, title: str) -> Table:
        """Make a table of the problems: what, how often, where, and how to fix it."""
        table = Table(title=title, title_justify="left", show_lines=True)
        for header in ("problem", "count", "examples", "what to do"):
            table.add_column(header, justify="right" if header == "count" else "left", overflow="fold")
        for what, finding in self.kinds.items():
            rest = finding.count - len(finding.examples)
            examples = finding.examples + ([f"and {rest} more"] if rest else [])
            table.add_row(what, str(finding.count), "\n".join(examples), finding.remedy)
        return table
