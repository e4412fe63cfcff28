"""What a run of the program loads."""

import subprocess
import sys

from tests.helpers import ROOT, make_case_file

TO_MAKE_WEIGHTS = {"torch", "pandas", "scipy"}
TO_READ_SCANS = {"nibabel", "SimpleITK", "pydicom", "gdcm", "imagecodecs", "highdicom"}


def test_a_run_on_npz_loads_nothing_for_scans(inputs, tiny_weights):
    """Neither a package nor our own code, but the options themselves."""
    make_case_file(inputs, "2DBox_US_1.npz")
    arguments = [str(inputs), str(inputs / "out"), "--weights", str(tiny_weights), "--quiet"]
    code = (
        f"from swiftmedsam.program.main import main; assert main({arguments}) == 0\n"
        "import sys; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert (inputs / "out" / "2DBox_US_1.npz").is_file()
    assert not {name.split(".")[0] for name in loaded} & (TO_MAKE_WEIGHTS | TO_READ_SCANS)
    assert {name for name in loaded if name.startswith("swiftmedsam.scans")} <= {
        "swiftmedsam.scans"
    }
