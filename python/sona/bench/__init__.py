"""Benchmarks that come with the package; `sona bench NAME`."""
