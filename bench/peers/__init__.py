"""What people would use instead of us, for the benchmark alone."""
