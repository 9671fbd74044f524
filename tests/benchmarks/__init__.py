"""The benchmarks' own arithmetic and instruments."""
