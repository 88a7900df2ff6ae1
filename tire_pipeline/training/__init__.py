"""Training of one candidate: configuration in, a bundle and its history out."""
