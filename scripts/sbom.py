"""Print a bill of materials as CycloneDX 1.6 JSON: `python3 scripts/sbom.py [FOLDER]`.

It lists the Python packages of this interpreter, the Debian packages if there are any, and the
weights of the program in FOLDER (default: this repository). Each has its version, its licence and,
if known, its hash. The same packages and weights give the same bytes. Only the standard library is
used, so that the script also runs in the image, which does not contain it (docs/shipped.md).
"""

import hashlib
import json
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

DPKG_STATUS = Path("/var/lib/dpkg/status")
COPYRIGHT = "/usr/share/doc/{}/copyright"
CARD_LICENCE = re.compile(r"^license_name: (.*)$", re.MULTILINE)  # in the card of the weights
LONGEST = 60  # characters of the name of a licence; some packages put the whole text there
NAMES = {  # SPDX names of licences that some packages describe in words
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "MIT License": "MIT",
}
Component = dict[str, Any]


def licence_of(package: Distribution) -> str:
    """Return the licence of an installed Python package, from its metadata."""
    metadata = package.metadata
    classifiers = [c for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    stated = metadata.get("License", "")
    for found in (metadata.get("License-Expression"), *(c.split(" :: ")[-1] for c in classifiers)):
        if found:
            return NAMES.get(found, found)
    return NAMES.get(stated, stated if len(stated) <= LONGEST else "see its metadata")


def python_packages() -> list[Component]:
    """Return all distributions on the path of this interpreter."""
    return [
        {
            "type": "library",
            "name": package.name,
            "version": package.version,
            "purl": f"pkg:pypi/{package.name}@{package.version}",
            "licenses": [{"license": {"name": licence_of(package)}}],
        }
        for package in distributions()
    ]


def debian_packages() -> list[Component]:
    """Return all installed Debian packages; licences are from their copyright files."""
    found: list[Component] = []
    if not DPKG_STATUS.exists():
        return found
    for paragraph in DPKG_STATUS.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            component: Component = {
                "type": "library",
                "name": name,
                "version": version,
                "purl": f"pkg:deb/debian/{name}@{version}",
            }
            copyright_file = Path(COPYRIGHT.format(name))
            if copyright_file.exists():
                text = copyright_file.read_text(encoding="utf-8", errors="replace")
                names = sorted(set(re.findall(r"^License: *(\S.*)$", text, re.MULTILINE)))
                names = names or [
                    f"see {copyright_file}"
                ]  # the copyright file is not machine-readable
                component["licenses"] = [{"license": {"name": name}} for name in names]
            found.append(component)
    return found


def program_and_weights(folder: Path) -> tuple[Component, list[Component]]:
    """Return the program, and the weights: files named in the manifests, and checkpoints."""
    source = (folder / "swiftmedsam" / "__init__.py").read_text()
    version = re.search(r'__version__ = "(.*)"', source)
    assert version is not None
    program: Component = {
        "type": "application",
        "name": "SwiftMedSAM",
        "version": version[1],
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    models = []
    for manifest in sorted((folder / "weights").glob("*/manifest.json")):
        card = (manifest.parent / "README.md").read_text(encoding="utf-8")
        stated = CARD_LICENCE.search(card)
        licence = stated[1] if stated else "not stated"
        files: dict[str, str] = {}  # a file may be part of several precisions
        for parts in json.loads(manifest.read_text())["models"].values():
            for of_part in parts.values():
                files |= of_part
        for path in sorted(manifest.parent.glob("compiled/*.blob")):
            files[f"compiled/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        models += [
            {
                "type": "machine-learning-model",
                "name": f"weights/{manifest.parent.name}/{name}",
                "version": version[1],
                "hashes": [{"alg": "SHA-256", "content": sha256}],
                "licenses": [{"license": {"name": licence}}],
            }
            for name, sha256 in files.items()
        ]
    return program, models


def main() -> int:
    """Print the bill of materials."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    program, models = program_and_weights(folder)
    components = [*python_packages(), *debian_packages(), *models]
    components.sort(key=lambda component: (component.get("purl", ""), component["name"]))
    for number, component in enumerate(components):
        component["bom-ref"] = component.get("purl", f"{component['name']}#{number}")
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": program},
        "components": components,
    }
    json.dump(bom, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
