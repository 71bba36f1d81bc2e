"""What every training shares: the loop, checkpoints, schedules, samplers."""
