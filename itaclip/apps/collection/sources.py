"""Sources of a collection: images, lists, tables and archives, divided into units that are read independently.

A unit never changes between readings: a fixed number of images of a listing, a row group of a
table, or a tar archive. It is read in parts of a fixed number of images; each part becomes one
result file.
"""

from __future__ import annotations

from itaclip.apps.collection.archives import Archives
from itaclip.apps.collection.folder_source import split_at_pattern
from itaclip.apps.collection.image_files import ImageFiles, ImageList
from itaclip.apps.collection.locations import Location, Storage, redacted
from itaclip.apps.collection.tables import Tables
from itaclip.apps.collection.units import Source
from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES

LIST_SUFFIXES = (".txt", ".lst")
TABLE_SUFFIXES = (".parquet", ".pq")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")


def open_source(
    address: str, storage: Storage | None = None, column: str | None = None, key: str | None = None
) -> Source:
    """Open the source at an address; its extension selects list, tables, archives, or (otherwise) image files.

    Args:
        address: a path or address; ``*``, ``?``, ``[abc]``, ``**`` and ``{000..123}`` make it a pattern.
        storage: fsspec options by protocol.
        column: for tables, the column with the images' bytes or addresses; for archives, the extension of images.
        key: for tables, the column whose values name the images.

    Raises:
        ItaclipError: `column` or `key` for a source that does not support it.
    """
    lowered = address.lower()
    root, pattern = split_at_pattern(address, (*TABLE_SUFFIXES, *ARCHIVE_SUFFIXES, *IMAGE_SUFFIXES))
    location = Location(root, storage)
    table, archive = lowered.endswith(TABLE_SUFFIXES), lowered.endswith(ARCHIVE_SUFFIXES)
    if key is not None and not table:
        raise ItaclipError(f"key = {key!r}: only tables (.parquet) have keys; {redacted(address)} is not a table.")
    if column is not None and not table and not archive:
        raise ItaclipError(
            f"column = {column!r}: only for tables (.parquet) and archives (.tar); {redacted(address)} is neither."
        )
    if table:
        return Tables(location, pattern, column, key)
    if archive:
        return Archives(location, pattern, column)
    if lowered.endswith(LIST_SUFFIXES):
        return ImageList(Location(address, storage))
    return ImageFiles(location, pattern)
