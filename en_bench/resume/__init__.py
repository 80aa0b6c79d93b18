"""A training that was killed goes on as if nothing had happened: where it stood, and with which random numbers."""
