"""Files that come as text: base64 and data URLs."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote

from itaclip.errors import ItaclipError

_LINE_BREAKS = re.compile(r"[ \t]*[\r\n]\s*")
_PLAIN = re.compile(r"[\w+/-]{40,}={0,2}", re.ASCII)


def is_data_url(text: str) -> bool:
    """Tell whether a text begins as a data URL does."""
    return text.lstrip()[:5].lower() == "data:"


def is_base64(text: str) -> bool:
    """Tell whether a text can only be base64: 40 characters or more, without a dot or a colon."""
    return _PLAIN.fullmatch(_LINE_BREAKS.sub("", text.strip())) is not None


def decode_base64(text: str, name: str) -> bytes:
    """Decode base64, either alone or in a data URL (``data:image/png;base64,...``).

    Line breaks and their indentation are skipped. The alphabet is the standard one or the URL-safe
    one, not a mixture. Padding may be missing. In a data URL, the media type is not looked at, and
    percent-encoded characters are decoded.

    Args:
        text: the text to decode.
        name: the name used in messages.

    Raises:
        ItaclipError: anything else; the message says what.
    """
    text = text.strip()
    if is_data_url(text):
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise ItaclipError(f"{name}: not base64: expected a data URL such as data:image/png;base64,iVBORw0K...")
        text = unquote(text) if "%" in text else text
    text = _LINE_BREAKS.sub("", text.strip())
    digits = text.rstrip("=")
    missing = -len(digits) % 4
    if {"-", "_"} & set(digits):
        if {"+", "/"} & set(digits):
            raise ItaclipError(f"{name}: not base64: it mixes the alphabets with +/ and with -_.")
        digits = digits.translate({ord("-"): "+", ord("_"): "/"})
    try:
        content = base64.b64decode(digits + "=" * missing, validate=True)
    except (binascii.Error, ValueError):
        bad = re.search(r"[^A-Za-z0-9+/]", digits)
        hint = " was a + sent as a blank?" if bad and bad[0] == " " else ""
        reason = f"{bad[0]!r} at character {bad.start() + 1};{hint}" if bad else "its end is missing;"
        raise ItaclipError(f"{name}: not base64: {reason} expected base64 or a data URL.") from None
    if len(text) - len(digits) not in (0, missing):
        raise ItaclipError(f"{name}: not base64: {len(text) - len(digits)} signs = at its end, expected {missing}.")
    return content
