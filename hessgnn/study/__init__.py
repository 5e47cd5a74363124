"""Comparing regimes of labels under fixed settings: on parts of the data, for equal steps, time or labelling cost."""
