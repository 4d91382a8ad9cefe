"""The progress of a request as one number."""

from __future__ import annotations


class Progress:
    """A listener for `itaclip.common.progress.listening` that other threads may read at any time.

    Args:
        refine: whether the last step, the refinement, is done at all.

    Attributes:
        step: the current step; empty before the first report.
        share: of the whole, in [0, 1]; a rough guess that fits ViT-B/16 and a photograph on a CPU.
    """

    def __init__(self, refine: bool) -> None:
        self.step, self.share = "", 0.0
        self._ends = {"texts": (0.0, 0.2), "image": (0.2, 0.6 if refine else 1.0), "edges": (0.6, 1.0)}

    def __call__(self, step: str, share: float) -> None:
        """Take a report; the overall share never falls, though steps may repeat."""
        begin, end = self._ends[step]
        self.step, self.share = step, max(self.share, begin + share * (end - begin))
