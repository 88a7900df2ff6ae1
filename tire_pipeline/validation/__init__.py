"""Whether a snapshot can be trained from: expectations, canaries that must fail, and a report people read."""
