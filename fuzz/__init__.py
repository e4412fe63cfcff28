"""Fuzzing, on demand: of `swiftmedsam.read_case`, of headers of scan files, and of the server.

    pip install -r requirements-dev.txt -r fuzz/requirements.txt
    python -m fuzz -runs=200000 FOUND fuzz/corpus
    python -m fuzz.headers --runs 20000 --seed 1
    python -m fuzz.server --runs 2000 --seed 1

- `__main__`: coverage-guided fuzzing of `read_case` (a command).
- `inputs`: makes files of the bytes of a fuzzer, and checks what must hold for them.
- `make_corpus`: writes the seeds in `corpus/` (a command).
- `headers`: changes headers of NIfTI, NRRD, MetaImage, DICOM, TIFF and PNG files at random (a
  command).
- `header_seeds`: the valid files, and the changes.
- `independent`: other readers to compare with.
- `server`: holds conversations with the server in which requests are changed at random (a command):
  packed arrays of nnInteractive, requests of the page, uploads, MONAI Label.
- `server_seeds`: conversations of good requests, and the changes.
- `runs`: does the runs of `headers` and `server` in a process of its own.

tests/program/test_fuzz.py checks the seeds, and random changes of them, in every run of the tests.
"""
