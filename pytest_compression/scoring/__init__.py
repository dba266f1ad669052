"""The engine: token sequences to log-probabilities, for the three families."""
