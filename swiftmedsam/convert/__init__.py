"""From a trained checkpoint to a weights folder the program can load.

`export` makes the OpenVINO models straight from torch, `verify` compares both on real slices,
`fetch` gets the official LiteMedSAM checkpoint. The folder gets a manifest only if they agree;
`measured` adds what its precisions were scored.
"""

import swiftmedsam.network  # noqa: F401 - before OpenVINO, which would report its import
