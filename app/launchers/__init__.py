"""What brings agents to machines, behind one interface: this machine, SSH, Ray. Whoever asks goes by `launchers.py`."""
