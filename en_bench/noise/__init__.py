"""Label noise: made as a function of (seed, sample key), measured against clean labels, recorded."""
