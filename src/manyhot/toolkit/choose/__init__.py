"""What held-out rows say: the penalty, the prior and the offset, thresholds, probabilities."""
