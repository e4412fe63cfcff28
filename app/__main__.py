"""`python -m app [INPUTS] [OUTPUTS]`: segment every case of a folder, or a scan."""

from swiftmedsam.program import signals
from swiftmedsam.system import one_blas_thread

if __name__ == "__main__":
    signals.end_at_once()  # as long as the modules below are loaded
    one_blas_thread()
    from swiftmedsam.program.main import main

    signals.leave(main())
