"""What a verdict is: paired statistics and decisions on stored scores. NumPy, no torch."""
