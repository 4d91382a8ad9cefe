"""Collections that outgrow one machine: read from anywhere, labelled on Ray Data, written as Parquet.

`itaclip.collection.label.label` labels a collection, `itaclip.collection.results.read_labels` gives it back.
"""

from importlib.util import find_spec

from itaclip.errors import ItaclipError

if missing := [name for name in ("ray", "pyarrow", "fsspec", "pycocotools") if find_spec(name) is None]:
    raise ItaclipError(f"labelling collections needs {', '.join(missing)}: pip install 'itaclip[ray]'.")
