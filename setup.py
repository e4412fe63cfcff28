"""What pyproject.toml cannot say: of all weights, a wheel has the default network alone."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithDefaultNetwork(build_py):
    """Takes the files beside `weights/DEFAULT`, and those in the folder that it names."""

    def find_data_files(self, package: str, src_dir: str) -> list[str]:
        """Return the data files of a package."""
        files = super().find_data_files(package, src_dir)
        if package != "swiftmedsam.weights":
            return files
        weights = Path(src_dir)
        default = weights / (weights / "DEFAULT").read_text().strip()
        return [file for file in files if Path(file).parent in (weights, default)]


setup(cmdclass={"build_py": WithDefaultNetwork})
