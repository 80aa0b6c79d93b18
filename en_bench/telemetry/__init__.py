"""What watches a run: local metrics, console lines, cost, the W&B mirror. Removing any of it changes no number."""
