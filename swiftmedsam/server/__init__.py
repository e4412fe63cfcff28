"""`swiftmedsam serve`: draw a box in a viewer, see the mask.

    session     an open image or volume, and its objects
    planes      what the network says of a box, in any plane
    objects     an object, and how its steps are made and undone
    region      the voxels of an object, kept in the box around them
    journal     keeps objects that are not saved, for a server that was killed
    worker      the one thread that uses the network
    hub         which clients hold sessions, and the memory that all take
    files       which files of this machine clients may open
    guard       which requests are answered; `fields` checks what they say
    nninteractive, packed   the protocol of nnInteractive (3D Slicer, napari), and its arrays
    monailabel  a part of MONAI Label's REST API (3D Slicer)
    page_api    the page, whose files are in `page/`
    tabs, opened, slices    images that pages have open, and the slices of them that are shown
    asked, uploads, page_files, page_saving     what a page asks, sends and saves
    temporary   the temporary folders of a server, which also go after it was killed
    app         the application with the routes of all faces
    serve       the command

This is the extra `server`. Nothing but the command imports it.
"""
