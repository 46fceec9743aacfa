"""The training loop: which pairs when, the step, checkpoints."""
