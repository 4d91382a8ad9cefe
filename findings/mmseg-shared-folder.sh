#!/usr/bin/env bash
# mmsegmentation and its maintained fork onedl-mmsegmentation install into the same folder, mmseg. pip installs the second
# over the first without a word about it, and removing either one removes the shared files of both: pip still lists the
# other, but the folder has lost its __init__.py. The same holds for mmengine and mmcv.
# Seen with mmsegmentation 1.2.2 and onedl-mmsegmentation 1.4.2:
#   both installed: mmseg is that of the fork; complaints of pip: 0
#   mmsegmentation removed: onedl-mmsegmentation 1.4.2 is listed; mmseg/__init__.py is gone
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
python_with --no-deps mmsegmentation==1.2.2
pip() { "$work/env/bin/pip" --disable-pip-version-check "$@" 2>&1 || true; }
said="$(pip install --no-deps onedl-mmsegmentation==1.4.2; pip check)"
site="$(echo "$work"/env/lib/python*/site-packages)"
shared="$(grep -q onedl "$site/mmseg/version.py" && echo the fork || echo the original)"
complaints="$(echo "$said" | grep -ciE 'overwr|same (file|folder)|mmsegmentation 1.2.2 .*conflict' || true)"
echo "both installed: mmseg is that of $shared; complaints of pip: $complaints"
pip uninstall --yes mmsegmentation >/dev/null
listed="$(pip list | sed -n 's/^onedl-mmsegmentation *//p')"
left="$([ -e "$site/mmseg/__init__.py" ] && echo there || echo gone)"
echo "mmsegmentation removed: onedl-mmsegmentation $listed is listed; mmseg/__init__.py is $left"
[ "$shared, $complaints, $listed, $left" = "the fork, 0, 1.4.2, gone" ] || { echo changed; exit 1; }
