"""Takes the pictures of the web page that the documentation shows.

Run from the repository, after a change of page or model: `python docs/screenshots.py`. Needs
playwright, Pillow and Chromium.
"""

import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

DOCS = Path(__file__).parent


def picture(browser: Browser, address: str, section: str, theme: str, height: int) -> None:
    """Write `page-SECTION.png`, in few colours so that it stays small."""
    page = browser.new_page(viewport={"width": 1180, "height": height}, color_scheme=theme)
    page.goto(f"{address}#{section}")
    told = {"listen": "data-ready", "inside": "data-clip='Learner'", "learn": "data-clip='Learner'"}
    page.wait_for_selector(f"body[{told[section]}]", state="attached", timeout=120_000)
    if section == "learn":
        page.wait_for_selector("#lesson-tree")
        page.check("#lesson-tree input[type=checkbox]")
        data = page.locator("#lesson-tree").screenshot()
    else:
        data = page.screenshot()
    page.close()
    image = Image.open(io.BytesIO(data)).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    image.save(DOCS / f"page-{section}.png", optimize=True)


def main() -> None:
    """All three."""
    command = [sys.executable, "-u", "-m", "rvq", "serve", "--port", "0", "--no-browser"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        address = server.stdout.readline().split()[0]
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        picture(browser, address, "listen", "light", 960)
        picture(browser, address, "inside", "dark", 860)
        picture(browser, address, "learn", "light", 900)
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
