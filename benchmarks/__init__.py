"""Timings against the plain path and against other libraries. Not tests: ratios of one run, on one machine."""
