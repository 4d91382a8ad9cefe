"""What a check found wrong, gathered by kind so that 10^5 like faults stay one line."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

_EXAMPLES = 3
_LOG_WIDTH = 240


@dataclass
class Finding:
    """One kind of fault.

    Attributes:
        remedy: what to do about it.
        count: how often it was found.
        examples: the first few places.
    """

    remedy: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Findings:
    """Faults by kind, in the order in which they were first met."""

    def __init__(self) -> None:
        self.kinds: dict[str, Finding] = {}

    def add(self, what: str, remedy: str, example: str) -> None:
        """Count one fault."""
        finding = self.kinds.setdefault(what, Finding(remedy))
        finding.count += 1
        if len(finding.examples) < _EXAMPLES:
            finding.examples.append(example)

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def show(self, console: Console, title: str) -> None:
        """Print the table; wide where no terminal limits it, so that paths in logs stay whole."""
        if not console.is_terminal:
            console.width = _LOG_WIDTH
        console.print(self.table(title))

    def table(self, title: str) -> Table:
        """What is wrong, how often, where, and how to mend it."""
        table = Table(title=title, title_justify="left", show_lines=True)
        for header in ("what is wrong", "times", "for example", "what to do"):
            table.add_column(header, justify="right" if header == "times" else "left", overflow="fold")
        for what, finding in self.kinds.items():
            rest = finding.count - len(finding.examples)
            examples = finding.examples + ([f"and {rest} more"] if rest else [])
            table.add_row(what, str(finding.count), "\n".join(examples), finding.remedy)
        return table
