"""File formats of scans and label maps, by the end of a file name; DICOM has its own package."""
