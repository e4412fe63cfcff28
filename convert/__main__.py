"""`python -m convert CHECKPOINT --variant v2 --out weights/NAME`, or `--fetch-lite`.

The code is in swiftmedsam/convert.
"""

import sys

from swiftmedsam.convert.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
