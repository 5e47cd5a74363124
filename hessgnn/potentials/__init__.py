"""Potentials: the base class, the registry, shared blocks, and one file per architecture."""

import torch

# e3nn 0.4, to which mace-torch is pinned, reads its constants with torch.load, which refuses slices unless admitted.
torch.serialization.add_safe_globals([slice])
