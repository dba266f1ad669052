"""Files or tasks to questions, and questions to scores."""
