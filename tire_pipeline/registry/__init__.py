"""Which model serves, and why: the gate and the moves of aliases it allows."""
