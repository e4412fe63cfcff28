"""Fuzzing, on demand: of `swiftmedsam.read_case`, and of the headers of scans.

    pip install -r requirements-dev.txt -r fuzz/requirements.txt
    python -m fuzz -runs=200000 FOUND fuzz/corpus
    python -m fuzz.headers --runs 20000 --seed 1

    inputs        files from a fuzzer's bytes, and the properties that must hold for them
    make_corpus   wrote the seeds in `corpus`
    __main__      the coverage-guided run
    headers       random changes of headers of NIfTI, NRRD, MetaImage, DICOM, TIFF and PNG files
                  (`header_seeds`), compared with other readers (`independent`)

tests/program/test_fuzz.py runs the seeds, and random changes of them, in every run of the tests.
"""
