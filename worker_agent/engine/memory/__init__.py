"""What sequences keep on a stage.

`pool.py` is what the executor asks: a stage's one pool, in which each sequence has a `SequenceState` (`states.py`). Of
these there are two kinds, `RowState` (`rows.py`: keys and values of the ragged batch, in place) and `OwnState`
(`own.py`: whatever transformers' own cache keeps, for a sequence that has a pass of its own). `region.py` is address
space that takes memory as it is filled, `aside.py` where the states of sequences wait that had to yield.
"""
