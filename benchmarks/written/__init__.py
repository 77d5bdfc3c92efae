"""Files as microscopes and their software write them, for tests and for benchmarks/files.py."""
