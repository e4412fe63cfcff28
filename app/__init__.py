"""Entry point of the repository and of the container: `python -m app`.

The library is `swiftmedsam`. For one release its names are found here, too, as they were in 0.1.
"""


def __getattr__(name: str) -> object:
    """A name of `swiftmedsam`, with a warning; `segment` is its `segment_case`."""
    import warnings

    import swiftmedsam

    new = "segment_case" if name == "segment" else name
    if new not in (*swiftmedsam.__all__, "__version__"):
        raise AttributeError(f"module 'app' has no attribute '{name}'")
    warnings.warn(f"app.{name} is swiftmedsam.{new} now", DeprecationWarning, stacklevel=2)
    return getattr(swiftmedsam, new)
