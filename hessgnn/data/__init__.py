"""From labelled structures to batches: store, splits, checks, loader, and the factory that makes labels."""
