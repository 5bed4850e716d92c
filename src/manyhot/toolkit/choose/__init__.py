"""What held-out rows say: the penalty, the prior, offsets, probabilities."""
