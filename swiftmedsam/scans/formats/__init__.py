"""File formats of scans and label maps, by suffix; DICOM has its own package."""
