"""Fuzzing of the border, on demand: of `swiftmedsam.read_case`, and of the headers of your own
files.

    pip install -r requirements-dev.txt -r fuzz/requirements.txt
    python -m fuzz -runs=200000 FOUND fuzz/corpus
    python -m fuzz.headers --runs 20000 --seed 1

`inputs` makes files of a fuzzer's bytes and says what has to hold for them, `make_corpus` wrote the
seeds in `corpus`, `__main__` is the coverage-guided run. `headers` changes headers of NIfTI, NRRD,
MetaImage, DICOM, TIFF and PNG files at random (`header_seeds`) and compares with other readers
(`independent`). tests/program/test_fuzz.py does the seeds, and random changes of them, in every run
of the tests.
"""
