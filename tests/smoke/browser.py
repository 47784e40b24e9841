"""Pages in headless Chromium: no console errors, no overflow, readable wide and narrow, light and dark.

One start of the browser per colour scheme: a driver page shows every page in frames of both widths, measures them, and
is read back as text.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1280, 400)
SCHEMES = {"light": 1, "dark": 0}  # Blink's numbers
CANARY = "the console is read"

DRIVER = """<!DOCTYPE html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><body><script>
const pages = PAGES, found = {};
console.error("CANARY");
function luminance(colour) {
  const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
}
function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}
function measured(frame) {
  const page = frame.contentDocument, style = frame.contentWindow.getComputedStyle;
  const text = [...page.querySelectorAll("svg text")].filter(each => each.textContent.trim());
  const background = style(page.body).backgroundColor;
  return {
    width: frame.contentWindow.innerWidth, content: page.documentElement.scrollWidth,
    // A table could scroll in a box of its own, but nobody would see that there is more of it.
    scrolling: [...page.querySelectorAll(".table")].filter(each => each.scrollWidth > each.clientWidth + 1)
      .map(each => each.textContent.replace(/\\s+/g, " ").slice(0, 60) + each.scrollWidth + ">" + each.clientWidth),
    wide: [...page.querySelectorAll("h1, h2, p, .table, figure, figure > svg, figcaption")]
      .filter(each => each.getBoundingClientRect().right > frame.contentWindow.innerWidth + 1)
      .map(each => each.tagName + ": " + each.textContent.slice(0, 40)),
    smallest_text: Math.min(...text.map(each => { const at = each.getScreenCTM();
      return parseFloat(style(each).fontSize) * Math.hypot(at.a, at.b); })),
    cut_off: text.filter(each => { const box = each.getBoundingClientRect();
      const plot = each.ownerSVGElement.getBoundingClientRect();
      return box.left < plot.left - 1 || box.right > plot.right + 1 || box.top < plot.top - 1
        || box.bottom > plot.bottom + 1; }).map(each => each.textContent),
    narrow: [...page.querySelectorAll("caption")].filter(each => each.getBoundingClientRect().width < 150)
      .map(each => each.textContent),
    background, contrasts: [...page.querySelectorAll("h1, p, th, td, svg, .note, figcaption")].map(each => {
      let around = each;
      while (style(around).backgroundColor === "rgba(0, 0, 0, 0)" && around !== page.body)
        around = around.parentElement;
      return contrast(style(each).color, style(around).backgroundColor); }).reduce((a, b) => Math.min(a, b)),
    scripts: page.scripts.length, tables: page.querySelectorAll("table").length,
  };
}
let waiting = 0;
for (const [name, html] of Object.entries(pages)) for (const width of WIDTHS) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.style.height = "900px"; frame.style.border = "0"; waiting += 1;
  frame.onload = () => {
    found[name + " " + width] = measured(frame);
    if (--waiting === 0) document.body.innerHTML = "<pre id=found></pre>",
      document.getElementById("found").textContent = "FOUND" + JSON.stringify(found) + "END";
  };
  frame.srcdoc = html;
  document.body.append(frame);
}
</script>"""


def assert_readable(pages: Mapping[str, str], scheme: str, folder: Path) -> None:
    """Every page (HTML by name) is readable at all widths in a colour scheme; `folder` is for the browser's files."""
    text = json.dumps(dict(pages)).replace("</", "<\\/")
    driver = DRIVER.replace("PAGES", text).replace("CANARY", CANARY).replace("WIDTHS", str(list(WIDTHS)))
    (folder / "driver.html").write_text(driver)
    shown, console = browse(
        folder, "--window-size=1400,900", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"
    )
    assert [line for line in console if CANARY not in line] == []
    assert len(console) == 1
    (found,) = re.findall("FOUND(.*)END</pre>", shown)
    measured: dict[str, dict[str, Any]] = json.loads(found)
    assert set(measured) == {f"{name} {width}" for name in pages for width in WIDTHS}
    for name, values in measured.items():
        width = int(name.split()[1])
        assert values["width"] == width
        assert values["content"] <= width, f"{name} is wider than the page"
        assert values["wide"] == [] and values["cut_off"] == [] and values["scrolling"] == [], name
        assert values["narrow"] == [], f"{name}: a caption broken letter by letter"
        assert values["smallest_text"] >= 7.5, f"{name}: text of a plot is too small to read"
        assert values["contrasts"] >= 4.5, f"{name}: WCAG AA asks for 4.5"
        assert (values["background"] == "rgb(255, 255, 255)") == (scheme == "light")
        assert values["scripts"] == 0 and values["tables"] >= 5


def browse(folder: Path, *options: str) -> tuple[str, list[str]]:
    """The document of `folder/driver.html` after it has run, and the lines that it wrote to the console."""
    assert CHROMIUM is not None
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom",
             f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", *options]  # fmt: skip
    run = subprocess.run([*words, (folder / "driver.html").as_uri()], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout, [line for line in run.stderr.splitlines() if ":CONSOLE" in line]
