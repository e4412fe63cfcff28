"""Make the animated picture of the server's page, from a demo case.

    python -m scripts.page_animation docs/page.webp [--frames FOLDER]

It runs the server and headless Chromium, and does what a person does: it drags a box around the
spleen, waits for the mask, extends it through the volume, and looks at its slices. The pictures are
those of the browser, with an arrow for the pointer. The times between them are chosen, and say
nothing about speed. It needs requirements-dev.txt, and Chromium.
"""

import argparse
import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect, sync_playwright

CASE = Path(__file__).resolve().parent.parent / "examples" / "inputs" / "3DBox_CT_abdomen.npz"
WINDOW = {"width": 1000, "height": 640}
WIDTH = 800  # of the animation, in pixels
QUALITY = 60
PART = (slice(None), slice(150, 420), slice(80, 430))  # of the case: without air and arms
SLICE, COLUMNS, ROWS = 9, (210, 316), (91, 231)  # of the box: around the spleen, in that part
MEETING = (290, 170)  # column and row where the other planes are
STEPS = 8  # pictures while the box is dragged
ARROW = ((0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12))
MOST_WORKING = 5  # pictures while the object is extended
PAUSE, QUICK = 380, 60  # milliseconds that a picture is shown
HANGS = 240_000  # milliseconds


class Film:
    """Pictures of a page, and how long each is shown."""

    def __init__(self, page: Page) -> None:
        self._page, self.pictures, self.times = page, list[Image.Image](), list[int]()
        self.pointer = (0.0, 0.0)

    def take(self, milliseconds: int) -> None:
        """Take a picture; if it is as the last one, that is shown longer."""
        picture = Image.open(io.BytesIO(self._page.screenshot())).convert("RGB")
        x, y = self.pointer
        arrow = [(x + dx, y + dy) for dx, dy in ARROW]
        ImageDraw.Draw(picture).polygon(arrow, fill="white", outline="black")
        size = WIDTH, round(picture.height * WIDTH / picture.width)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        if self.pictures and self.pictures[-1].tobytes() == picture.tobytes():
            self.times[-1] += milliseconds
        else:
            self.pictures.append(picture)
            self.times.append(milliseconds)

    def thin(self, first: int, most: int) -> None:
        """Keep at most so many pictures, of those from `first` on."""
        chosen = np.unique(np.linspace(first, len(self.times) - 1, most).astype(int)).tolist()
        kept = [*range(first), *(n for n in chosen if n >= first)]
        self.pictures = [self.pictures[n] for n in kept]
        self.times = [min(self.times[n], PAUSE) for n in kept]

    def move(self, x: float, y: float) -> None:
        """Move the pointer."""
        self._page.mouse.move(x, y)
        self.pointer = x, y

    def save(self, path: Path) -> None:
        """Write the animation; it runs for ever."""
        first, *others = self.pictures
        first.save(path, save_all=True, append_images=others, duration=self.times, loop=0,
                   quality=QUALITY, method=6)  # fmt: skip


@contextlib.contextmanager
def served(scan: Path) -> Iterator[str]:
    """The address of a server that shows the scan; it ends with the block."""
    command = [sys.executable, "-m", "swiftmedsam", "serve", scan, "--port", "0", "--quiet",
               "--no-journal"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def idle(page: Page) -> None:
    """Wait until nothing is under way."""
    expect(page.locator("#views")).to_have_attribute("aria-busy", "false", timeout=HANGS)


def played(page: Page, slices: int, rows: int, columns: int) -> Film:
    """Draw a box, see the mask, extend it, and look through the slices, of so many pixels."""
    film = Film(page)
    view = page.locator(".view[data-plane=axial]")
    slider = view.locator("input[type=range]")
    slider.fill(str(SLICE))
    expect(view.locator(f".picture[data-slice='{SLICE}']")).to_be_visible(timeout=HANGS)
    place = view.locator(".picture").bounding_box(timeout=HANGS)
    zoom = min(place["width"] / columns, place["height"] / rows)
    middle = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2

    def at(column: int, row: int) -> tuple[float, float]:
        """The place of a pixel of the slice in the browser's window."""
        return middle[0] + (column - columns / 2) * zoom, middle[1] + (row - rows / 2) * zoom

    page.mouse.click(*at(*MEETING))
    idle(page)
    (x0, y0), (x1, y1) = (at(*corner) for corner in zip(COLUMNS, ROWS, strict=True))
    film.move(x0, y0)
    film.take(PAUSE)
    page.mouse.down()
    for part in np.linspace(0, 1, STEPS + 1)[1:]:
        film.move(x0 + part * (x1 - x0), y0 + part * (y1 - y0))
        film.take(QUICK)
    page.mouse.up()
    idle(page)
    film.take(PAUSE)
    button = page.locator("#extend").bounding_box()
    film.move(button["x"] + button["width"] / 2, button["y"] + button["height"] / 2)
    film.take(PAUSE // 2)
    page.mouse.down()
    page.mouse.up()
    first = len(film.times)
    while page.locator("#views").get_attribute("aria-busy") == "true":
        film.take(QUICK)
    film.thin(first, MOST_WORKING)
    film.take(PAUSE)
    for index in [*range(SLICE, -1, -3), *range(1, slices, 3), SLICE]:
        slider.fill(str(index))
        expect(view.locator(f".picture[data-slice='{index}']")).to_be_visible(timeout=HANGS)
        page.evaluate("document.activeElement.blur()")
        film.take(QUICK)
    film.take(PAUSE)
    return film


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("python -m scripts.page_animation", description=__doc__)
    parser.add_argument("out", type=Path, help="the animation, a file .webp")
    parser.add_argument("--frames", type=Path, help="also write each picture there, as PNG")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, np.load(CASE) as case:
        scan = Path(folder) / "abdomen.nii.gz"
        x, y, z = case["spacing"].tolist()
        image = case["imgs"][PART]
        nibabel.save(nibabel.Nifti1Image(image.T, np.diag([-x, -y, z, 1])), scan)
        with served(scan) as address, sync_playwright() as playwright:
            # no sandbox: root has none, and the page is our own
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport=WINDOW, color_scheme="dark")
            page.goto(address)
            expect(page.locator("#title")).to_have_text(scan.name, timeout=HANGS)
            idle(page)
            film = played(page, *image.shape)
            browser.close()
    film.save(options.out)
    if options.frames:
        options.frames.mkdir(exist_ok=True)
        for number, picture in enumerate(film.pictures):
            picture.save(options.frames / f"{number:02}.png")
    print(f"{len(film.times)} pictures, {sum(film.times) / 1000:.1f} s, "
          f"{options.out.stat().st_size} bytes")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
