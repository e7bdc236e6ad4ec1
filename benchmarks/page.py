"""How soon the web page can be used: what docs/page.md quotes.

    python benchmarks/page.py --repeat 5 [--static]

Starts `rvq serve` and opens its page in headless Chromium, each time anew, and tells when the
address was printed, when the page was first painted, when a first version of the first sample could
be heard, and when all its versions were ready; beside it the processor time of server and browser
until then. `--static` opens a static copy instead, from a host that only gives out files. Where
other work shares the cores, look at the processor time. Needs playwright and Chromium; Linux.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from rvq.web.static_copy import write_static_copy

WATCH = """
window.told = {};
new MutationObserver(() => {
  for (const name of ["playing", "ready"]) {
    if (document.body?.dataset[name]) window.told[name] ??= performance.now() / 1000;
  }
}).observe(document, {
  attributes: true, subtree: true, attributeFilter: ["data-playing", "data-ready"],
});
"""
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime / 1000"


def processor_time(root: int) -> float:
    """Seconds that a process and its descendants have used so far."""
    ticks, family = 0, {root}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(folder.name) in family or int(fields[1]) in family:
                family.add(int(folder.name))
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def host(static: Path | None) -> Iterator[tuple[str, int]]:
    """Address and process of a host of the page."""
    command = [sys.executable, "-u", "-m", "rvq", "serve", "--port", "0", "--no-browser"]
    if static:
        command = [sys.executable, "-u", "-m", "http.server", "0", "--directory", str(static)]
        command += ["--bind", "127.0.0.1"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True) as process:
        assert process.stdout is not None
        try:
            words = process.stdout.readline().replace("(", "").replace(")", "").split()
            address = next(word for word in words if word.startswith("http"))
            yield address, process.pid
        finally:
            process.terminate()


def visit(static: Path | None) -> dict[str, float]:
    """One start and one visit."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        page: Page = browser.new_page()
        page.add_init_script(WATCH)
        begin, used = time.perf_counter(), processor_time(os.getpid())
        with host(static) as (address, server):
            row = {"address": time.perf_counter() - begin}
            row["cpu address: server"] = processor_time(server)
            page.goto(address, wait_until="commit")
            opened = row["address"]
            for name in ("playing", "ready"):
                page.wait_for_selector(f"body[data-{name}]", state="attached", timeout=60_000)
                row[name] = opened + page.evaluate(f"window.told.{name}")
                row[f"cpu {name}: server"] = processor_time(server)
                all_used = processor_time(os.getpid()) - used
                row[f"cpu {name}: browser"] = all_used - row[f"cpu {name}: server"]
            row["painted"] = opened + page.evaluate(PAINTED)
        browser.close()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--static", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "page") if arguments.static else None
        if copy:
            write_static_copy("speech_24khz", copy)
        rows = [visit(copy) for _ in range(arguments.repeat)]
    for name in sorted(rows[0], key=lambda name: statistics.median(row[name] for row in rows)):
        values = sorted(row[name] for row in rows)
        print(f"{name:22} {statistics.median(values):6.2f} s   {values[0]:.2f} to {values[-1]:.2f}")


if __name__ == "__main__":
    main()
