"""Files in object stores and on web servers, by fsspec, and on DICOMweb servers (docs/scale.md)."""
