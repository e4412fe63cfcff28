"""The command that times encoders by precision and by the limit of instructions."""

import subprocess
import sys

import pytest

from benchmarks.speed import encoders
from tests.helpers import ROOT

LIMIT = "AVX512_CORE"


def run(*words):
    command = [sys.executable, "-m", "benchmarks.speed.encoders", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


# OpenVINO 2026.4 crashes on the tiny encoder with AVX2 alone; the shipped ones run.
@pytest.mark.skipif(not encoders.runs_here(LIMIT), reason="the CPU has no AVX-512")
def test_each_encoder_is_timed_under_the_limit_and_compared_with_the_other(tiny_weights):
    beside = tiny_weights / "encoder.xml"
    done = run(tiny_weights, "--beside", beside, "--isa", LIMIT, "--rounds", 2, "--threads", 1)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "1 threads" in lines[0] and "medians of 2 in turns" in lines[0]
    first = lines.index(LIMIT)
    heading, _, other, ours = (line.split(" | ") for line in lines[first + 2 : first + 6])
    assert heading == ["| encoder", "f32", "bf16", "int8 |"]
    assert other[0] == f"| {tiny_weights.name}/encoder" and "(1.00)" in other[1]
    assert ours[0] == f"| {tiny_weights.name}" and float(ours[1].split()[0]) > 0
    assert [cell.strip(" |") for row in (other, ours) for cell in row[2:]] == [""] * 4
    assert lines[-1] == (
        f"python -m swiftmedsam.convert.measured {tiny_weights} --auto avx512bw=f32"
    )


def test_what_is_no_encoder_is_refused_in_one_line(tmp_path):
    done = run(tmp_path / "none", "--isa", "AVX2")
    assert done.returncode == 1
    assert "none" in done.stderr and "Traceback" not in done.stderr


def test_the_words_for_the_manifest_start_with_the_strongest_cpu():
    chosen = {"amx_bf16": "bf16", "avx512_vnni": "int8", "avx512bw": "f32", "avx2": "f32"}
    table = encoders.table_of(chosen)
    assert list(table.items()) == [
        ("amx_bf16", "bf16"), ("avx512_vnni", "int8"), ("avx512bw", "f32"), ("avx_vnni", "int8"),
    ]  # fmt: skip
    assert encoders.table_of({"avx2": "int8"}) == {"avx2": "int8"}
    weaker = encoders.table_of({"avx512bw": "int8", "avx2": "int8"})  # AMX was not measured
    assert list(weaker.items()) == [("amx_bf16", "bf16"), ("avx512bw", "int8"), ("avx2", "int8")]


def test_a_table_has_medians_and_parts_of_the_fastest_of_the_other():
    found = {
        "other": {"f32": [30.0, 10.0, 20.0], "bf16": [8.0, 10.0, 9.0]},
        "ours": {"f32": [18.0], "int8": [4.5]},
    }
    assert encoders.fastest(found["other"]) == (9.0, "bf16")
    assert encoders.table(found, "other").splitlines() == [
        "| encoder | f32 | bf16 | int8 |",
        "|---|---|---|---|",
        "| other | 20.0 (2.22) | 9.0 (1.00) |  |",
        "| ours | 18.0 (2.00) |  | 4.5 (0.50) |",
    ]
