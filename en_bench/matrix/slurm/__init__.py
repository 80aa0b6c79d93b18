"""The cells of a matrix as jobs of Slurm."""
