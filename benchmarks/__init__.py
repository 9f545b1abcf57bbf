"""What an explanation costs: fullgrad beside a plain gradient and other packages' methods.

``python -m benchmarks`` measures and writes docs/benchmarks.md; ``python -m benchmarks.guard``
is the check that a change has not made the map slower.
"""
