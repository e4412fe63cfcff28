"""What a fleet finds when it starts again on a folder that has changed."""

from swiftmedsam.program.stats_table import StatsTable


def test_a_table_may_have_rows_of_scans_that_are_another_parts_now(tmp_path):
    rows = [{"scan": name} for name in ("z.nii.gz", "b.nii.gz", "a.nii.gz")]
    table = StatsTable(tmp_path / "stats.csv", rows)
    table.put_in_order(["a.nii.gz", "b.nii.gz"])
    assert [row["scan"] for row in rows] == ["a.nii.gz", "b.nii.gz", "z.nii.gz"]
