"""The work of each variant, as counted and as told."""

from benchmarks.speed.flops import PUBLISHED, count
from tests.helpers import ROOT

DOCS = ROOT / "docs"


def test_the_work_in_the_docs_is_what_is_counted():
    encoders, decoders = zip(*map(count, PUBLISHED.values()), strict=True)
    told = (DOCS / "reproduction.md").read_text()
    assert list(PUBLISHED) == ["LiteMedSAM", "v1", "v2"]  # the columns of the table
    for words, flops, digits in (
        ("encoder, GFLOP a slice", encoders, 1), ("decoder, GFLOP a box", decoders, 2),
    ):  # fmt: skip
        cells = [f"{flop / 1e9:.{digits}f}" for flop in flops]
        assert f"| {words} | {' | '.join(cells)} | {flops[2] / flops[0] - 1:.1%} |" in told
