"""What is kept between runs: accepted baselines."""
