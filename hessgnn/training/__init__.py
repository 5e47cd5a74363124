"""The loss, the trainer and its checkpoints."""
