"""Collections too large for one machine: read from any storage, labelled with Ray Data, written as Parquet.

`label.label` labels a collection; `results.read_labels` reads the results.
"""

from importlib.util import find_spec

from itaclip.errors import ItaclipError, install_extra

if missing := [name for name in ("ray", "pyarrow", "fsspec", "pycocotools") if find_spec(name) is None]:
    raise ItaclipError(f"labelling collections requires {', '.join(missing)}: {install_extra('ray')}.")
