"""A package to be installed, small and made by hand."""

import base64
import hashlib
import zipfile
from pathlib import Path


def wheel(folder: Path) -> str:
    """Write a wheel by hand and return its SHA-256."""
    info = "tinything-1.0.dist-info"
    files = {
        "tinything.py": b"",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    path = folder / "tinything-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(data)}")
            packed.writestr(name, data)
        packed.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return hashlib.sha256(path.read_bytes()).hexdigest()
