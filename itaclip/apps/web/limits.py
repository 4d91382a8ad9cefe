"""Limits on what one visitor may ask for, so that the next one gets an answer too."""

from __future__ import annotations

from dataclasses import dataclass, fields

from itaclip.errors import ItaclipError


@dataclass(frozen=True)
class Limits:
    """Limits per request and on the queue.

    Raises:
        ItaclipError: a limit that is not positive; the message shows it.
    """

    megapixels: float = 16.0
    """Per image, read from its header: a small file can claim far more. Photographs have about 12."""
    upload_mb: float = 20.0
    """Per image file."""
    words: int = 100
    """Class words, synonyms and background words together. For the page every class is a score map in
    memory: 100 take 1.3 GB at 2048 x 1536, the largest working size of a photograph."""
    characters: int = 50_000
    """Text per request: enough for 100 words with definitions of more than 400 characters each."""
    seconds: float = 120.0
    """Computing time, without the time in the queue. Encoding 100 new words with ViT-B/16
    (80 templates each) takes 97 s on one CPU core."""
    queue: int = 20
    """Requests that may wait; any more are refused."""
    upload_seconds: float = 30.0
    """Time for a request to arrive; slower ones are dropped."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ItaclipError(f"{field.name} = {value}: expected a positive number.")

    @property
    def pixels(self) -> int:
        """Largest number of pixels of an image."""
        return int(self.megapixels * 1e6)

    @property
    def upload_bytes(self) -> int:
        """Largest number of bytes of an image file."""
        return int(self.upload_mb * 1e6)


class TimeOverError(ItaclipError):
    """Computing took longer than the limit."""


class StoppedError(ItaclipError):
    """The client disconnected."""

    def __init__(self) -> None:
        super().__init__("The client disconnected.")
