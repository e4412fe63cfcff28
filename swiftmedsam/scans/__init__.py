"""Your own files: a scan and its boxes in, labels on the scan's own grid out.

The way of the data, a module a step:

    options -> plan: which scans, which boxes (box_files, matching, label_maps), which outputs
    file -> nifti, dicom, itk, pictures (by files) -> Scan: voxels (I, J, K[, 3]), affine to mm
    scan -> walk.Walk: axes moved and flipped, nothing resampled -> slices (D, H, W[, 3])
    boxes -> boxes.on_grid: voxels or mm -> Box: whole voxels of the scan's grid
    both -> swiftmedsam.make_case -> swiftmedsam.segment -> labels (D, H, W)
    labels -> Walk.to_grid -> (I, J, K) -> write: NIfTI, seg.nrrd, MHA, DICOM SEG, PNG, TIFF, npz
    labels -> stats: a table of sizes, with --stats
    labels of a picture, or, with --dry-run, each box as it was understood -> preview

modality says which modality the values are of, own which files this program wrote. command has
these steps in their order, options what can be asked; opened asks one image many boxes; cases makes
cases of scans with label maps, and leads back. Nothing here is loaded but options, unless a scan is
asked for, and no library beyond numpy and OpenCV before a file needs it.
"""
