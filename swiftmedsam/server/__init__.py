"""`swiftmedsam serve`: draw a box in a viewer, see the mask.

    session     an open image or volume, and its objects
    region      the voxels of an object, kept in the box around them
    worker      the one thread that uses the network
    app         the server: what it serves, and what it refuses
    nninteractive, packed   the protocol of nnInteractive (3D Slicer, napari), and its arrays
    journal     keeps objects that are not saved, for a server that was killed

This is the extra `server`. Nothing but the command imports it.
"""
