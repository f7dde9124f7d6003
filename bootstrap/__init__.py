"""Makes the Python environment that Shardboard runs in, and starts things inside it. Standard library only.

`run`, `test` and `worker_agent/launch/agent.sh` (and their PowerShell twins) only find a Python and call this.
"""
