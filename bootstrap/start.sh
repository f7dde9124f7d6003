#!/usr/bin/env bash
# Finds a Python that is new enough and hands over to the bootstrap, which this file lies in.
# Usage: start.sh COMMAND ARGS…   SHARDBOARD_PYTHON names a Python to try first.
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# An environment made before starts fastest; when it does not serve any more, it hands over to its base.
for python in "$here/../.venv/bin/python" "${SHARDBOARD_PYTHON:-python3}" python3 \
  python3.14 python3.13 python3.12 python3.11 python; do
  if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    exec "$python" "$here" "$@"
  fi
done

{
  echo "Shardboard needs Python 3.11 or newer, and none of python3, python3.11 … python3.14, python is one."
  echo "Install it (Debian, Ubuntu: 'sudo apt-get install python3 python3-venv'; macOS: 'brew install python')"
  echo "or name one: SHARDBOARD_PYTHON=/path/to/python3.12 $0 …"
} >&2
exit 1
