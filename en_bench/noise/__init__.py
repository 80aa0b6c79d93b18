"""Wrong labels: made, measured and found."""
