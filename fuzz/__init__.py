"""Fuzzing of the border, `app.read_case`, on demand.

    pip install -r requirements-dev.txt -r fuzz/requirements.txt
    python -m fuzz -runs=200000 FOUND fuzz/corpus

`inputs` makes files of a fuzzer's bytes and says what has to hold for them, `make_corpus` wrote the
seeds in `corpus`, `__main__` is the coverage-guided run. tests/test_fuzz.py does the seeds, and
random changes of them, in every run of the tests.
"""
