"""The machine's half of Shardboard: one process per node that holds layers of a model and runs them.

Installs and runs without Qt, without a database and without the controller's half (`app`).
"""

__version__ = "0.1.0"
