"""Scans: files of medical formats in, labels on the scan's own grid out.

The files of this package, in the order in which the data pass them:

    formats           files to a `Scan` by their suffix: NIfTI, NRRD, MetaImage, pictures
    dicom             DICOM series and files to a `Scan`; segmentations (SEG) in and out
    scan              voxels (I, J, K[, 3]) and the affine to millimetres
    infer_modality    the modality: as the user, else the file says, else guessed from the values
    orientation       the grid's axes as slices (D, H, W[, 3]) and back; nothing is resampled
    boxes             numbers and files of boxes to whole voxels; `label_maps`: around each label
    place             a scan with its boxes as a case, and labels back on the scan's grid
    outputs, write    where labels go and which files may be replaced; atomic writes
    preview           overlays, and pictures of the boxes
    stats             a table of sizes
    provenance        which files this program wrote
    session           `open_image`: an open image that is segmented many times

Nothing here is loaded before a scan is read, and no library beyond numpy and OpenCV before a file
needs it.
"""
