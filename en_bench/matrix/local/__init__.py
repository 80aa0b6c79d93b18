"""The cells of a matrix in processes of this machine, and what is told of them meanwhile."""
