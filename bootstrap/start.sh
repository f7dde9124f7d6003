#!/usr/bin/env bash
# Finds a Python that is new enough and hands over to the bootstrap, which this file lies in.
# Usage: start.sh COMMAND ARGS…   SHARDBOARD_PYTHON names a Python to try first.
set -eu

# Whoever starts this may have closed its streams, and what is opened next would take their place; or set a umask that
# keeps us out of our own files, or lets everybody write to them.
( : 3<&0 ) 2>/dev/null || exec </dev/null
( : 3>&1 ) 2>/dev/null || exec >/dev/null
( : 3>&2 ) || exec 2>/dev/null
umask u+rwx,o-w

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# An environment made before starts fastest; when it does not serve any more, it hands over to its base.
# -E: PYTHONHOME, PYTHONPATH and their like are meant for other programs.
for python in "$here/../.venv/bin/python" "${SHARDBOARD_PYTHON:-python3}" python3 \
  python3.14 python3.13 python3.12 python3.11 python; do
  if "$python" -E -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    exec "$python" -E "$here" "$@"
  fi
done

{
  echo "Shardboard needs Python 3.11 or newer, and none of python3, python3.11 … python3.14, python is one."
  echo "Install it (Debian, Ubuntu: 'sudo apt-get install python3 python3-venv'; macOS: 'brew install python')"
  echo "or name one: SHARDBOARD_PYTHON=/path/to/python3.12 $0 …"
} >&2
exit 1
