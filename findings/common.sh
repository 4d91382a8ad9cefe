# Sourced by the scripts: `python_with PACKAGE==VERSION ...` makes a fresh environment in a temporary folder, which goes at the end.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python_with() {
  rm -rf "$work/env"
  "${PYTHON:-python3}" -m venv "$work/env"
  "$work/env/bin/pip" install --quiet --disable-pip-version-check "$@" 2>/dev/null
  python="$work/env/bin/python"
}
