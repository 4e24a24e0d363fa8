"""Takes the pictures of the README: the demo's comment and page, in light and dark, by a Chromium that is installed.

    make pictures

Needs Debian's `chromium` and `fonts-noto-color-emoji`. Run by hand when the looks change; the files are committed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent / "pictures"
QUIET = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LIMIT_S = 300
MAX_BYTES = 200_000
COMMENT = (880, 700)
"""As wide as a forge shows a comment."""
REPORT = (1180, 898)


def main() -> int:
    """Run the demo and take two pictures of it, each in light and dark."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("Chromium is not installed (Debian: apt-get install chromium fonts-noto-color-emoji)", file=sys.stderr)
        return 2
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gitops-ml-pictures-") as name:
        pages = demo(Path(name) / "demo")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=QUIET, chromium_sandbox=os.geteuid() != 0, timeout=30_000
            )
            try:
                for what, (page, size) in pages.items():
                    for scheme in ("light", "dark"):
                        take(browser, page, size, scheme, FOLDER / f"{what}-{scheme}.png")
            finally:
                browser.close()
    return 0


def demo(folder: Path) -> dict[str, tuple[Path, tuple[int, int]]]:
    """Run the demo, and return its pages with the part of each that is shown."""
    root = str(Path(__file__).parents[1])
    environ = {**os.environ, "PYTHONPATH": root}
    ours = [sys.executable, "-m", "gitops_ml"]
    subprocess.run([*ours, "demo", "--keep", str(folder)], env=environ, check=True, stdout=sys.stderr, timeout=LIMIT_S)
    repository = folder / "repository"
    subprocess.run([*ours, "report", "--html", "report.html"], cwd=repository, env=environ, check=True, timeout=LIMIT_S)
    return {
        "comment": (repository / ".gitops-ml" / "comment.html", COMMENT),
        "report": (repository / "report.html", REPORT),
    }


def take(browser, page: Path, size: tuple[int, int], scheme: str, into: Path) -> None:  # type: ignore[no-untyped-def]
    """Take one picture, no higher than what there is to see."""
    width, height = size
    view = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    view.goto(page.as_uri(), timeout=20_000)
    height = min(height, int(view.evaluate("document.querySelector('main').getBoundingClientRect().bottom")))
    view.screenshot(path=into, clip={"x": 0, "y": 0, "width": width, "height": height}, timeout=20_000)
    view.close()
    bytes_taken = into.stat().st_size
    print(f"{into}: {bytes_taken} bytes")
    if bytes_taken > MAX_BYTES:
        sys.exit(f"{into} is larger than {MAX_BYTES} bytes")


if __name__ == "__main__":
    sys.exit(main())
