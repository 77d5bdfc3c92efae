"""The points of the curves of ``benchmarks/curves.py``: patches and whole micrographs."""
