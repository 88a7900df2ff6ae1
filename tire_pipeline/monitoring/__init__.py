"""What production did in a window of time, and what of it a person must hear of."""
