"""A run in words: properties of each trial, the text of a failure, the summary table."""
