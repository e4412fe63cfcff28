"""Convert a trained checkpoint to a weights folder that the program can load.

- `__main__`: the command: fetch, export, quantize, verify, write the folder.
- `fetch`: downloads the official checkpoints.
- `rewrite`: the same network with less work, as it is exported.
- `many`: its decoder once more, for many boxes in one slice.
- `export`: torch modules to OpenVINO models.
- `quantize`: the encoder in INT8.
- `verify`: compares torch and OpenVINO on real slices. Without agreement there is no manifest.
- `folder`: puts a new weights folder in the place of an older one.
- `measured`: writes the scores of each precision into the manifest (a command).
"""

import swiftmedsam.network  # noqa: F401 - before OpenVINO, which would report its import
