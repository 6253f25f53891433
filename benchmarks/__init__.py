"""How fast, against what, on which machine: `python -m benchmarks.run`. See README.md here."""
