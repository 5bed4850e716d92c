"""Methods beside each other on the same rows: each one's trial, what it cost, what is more than chance."""
