#!/usr/bin/env bash
# A Shardboard agent on this machine: makes an environment with just what an agent needs, then runs it.
#
#   worker_agent/launch/agent.sh --listen 192.168.1.20:7600 …     all arguments go to `python -m worker_agent`
#   worker_agent/launch/agent.sh --wait                           waits to be found by a controller on this network
#   worker_agent/launch/agent.sh --join INVITATION --install-service   joins, now and whenever you log in
#   worker_agent/launch/agent.sh prepare                          only make the environment, and print its Python
#   worker_agent/launch/agent.sh --systemd --listen …             a unit for systemd that runs it with these arguments
#
# Either within the repository, or copied together with the folder `bootstrap` and the wheel
# (shardboard-*.whl) into one folder.
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for bootstrap in "$here/bootstrap" "$here/../../bootstrap"; do
  [ -f "$bootstrap/start.sh" ] || continue
  if [ "${1:-}" = prepare ]; then
    exec bash "$bootstrap/start.sh" prepare-agent
  fi
  if [ "${1:-}" = --systemd ]; then
    shift
    exec bash "$bootstrap/start.sh" agent-unit "$@"
  fi
  exec bash "$bootstrap/start.sh" agent "$@"
done
echo "There is no folder 'bootstrap' beside $0 or at the top of its repository; copy it from Shardboard." >&2
exit 1
