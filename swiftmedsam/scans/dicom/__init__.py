"""DICOM: series in, voxels on a regular grid out; segmentations (SEG) in and out."""
