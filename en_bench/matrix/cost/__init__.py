"""What a matrix costs, before anything runs."""
