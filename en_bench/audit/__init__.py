"""Which training labels are likely wrong, from a run's folder, and what ExemplarNorm does to them."""
