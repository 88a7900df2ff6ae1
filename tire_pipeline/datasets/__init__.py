"""Dataset versions, their immutable snapshots, and the cache of decoded images."""
