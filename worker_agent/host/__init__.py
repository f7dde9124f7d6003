"""The process on a machine: its threads, its home, its figures, how it joins."""
