"""The methods of ``benchmarks/peers.py``, their common stream, budget and scores."""
