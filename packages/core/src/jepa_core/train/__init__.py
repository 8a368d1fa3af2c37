"""Training: launch, loop, optimiser, schedules, checkpoints, and the run folder that holds them together."""
