"""`swiftmedsam fleet`: one run on many machines, by Ray (docs/scale.md)."""
