"""DICOM: reads series as voxels on a regular grid; reads and writes segmentations (SEG)."""
