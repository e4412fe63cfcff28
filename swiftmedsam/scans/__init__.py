"""Your own files: a scan and its boxes in, labels on the scan's own grid out.

The files of this package, in the order in which the data pass them:

    formats           files to a `Scan` by their suffix: NIfTI, NRRD, MetaImage, pictures
    dicom             DICOM series and files to a `Scan`; segmentations (SEG) in and out
    scan              voxels (I, J, K[, 3]) and the affine to millimetres
    infer_modality    what somebody says, else the file, else what the values look like
    orientation       the grid's axes as slices (D, H, W[, 3]) and back; nothing is resampled
    boxes             numbers and files of boxes to whole voxels; `label_maps`: around each label
    place             a scan with its boxes as a case, and labels back on the scan's grid
    outputs, write    where labels go and what may be replaced; their files, all or none
    preview           overlays, and each box as it was understood
    stats             a table of sizes
    provenance        which files this program wrote
    session           `open_image`: one image, asked for many boxes

Nothing here is loaded unless a scan is asked for, and no library beyond numpy and OpenCV before a
file needs it.
"""
