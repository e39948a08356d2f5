#!/usr/bin/env bash
# Puts raypretrain into ~/.venv of a machine that has no Python 3.11, at the versions of requirements.lock.
# The launchers run it on every node. Run again it changes nothing.
#
#   bash install.sh EXTRA [PACKAGE…]
#     EXTRA    s3, gs or az: what reads the bucket
#     PACKAGE  beside it, e.g. what Ray's autoscaler needs on the head
set -euo pipefail

extra="${1:?which extra: s3, gs or az}"
shift
source="$(cd "$(dirname "$0")/.." && pwd)"
lock="$source/requirements.lock"
uv="$HOME/.local/bin/uv"
python="$HOME/.venv/bin/python"

# Newer systems refuse `pip install --user` without this; older ones do not know it.
[ -x "$uv" ] || PIP_BREAK_SYSTEM_PACKAGES=1 /usr/bin/python3 -m pip install --quiet --user uv==0.13.9
[ -x "$python" ] || "$uv" venv --quiet --python 3.11 "$HOME/.venv"
"$uv" pip install --quiet --python "$python" --requirement "$lock"
"$uv" pip install --quiet --python "$python" --constraint "$lock" --reinstall-package raypretrain \
  "raypretrain[$extra] @ file://$source" "$@"

# For who logs in, and for `ray exec`.
profile="$HOME/.bashrc"
if ! grep -qs RAY_AUTH_MODE "$profile"; then
  # Before all else: Ubuntu's own file ends early where nobody types.
  {
    echo "export RAY_AUTH_MODE=token PATH=\"\$HOME/.venv/bin:\$PATH\""
    cat "$profile" 2>/dev/null || true
  } >"$profile.new"
  mv "$profile.new" "$profile"
fi
