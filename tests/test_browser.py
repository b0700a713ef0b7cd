"""The page in a real browser: no error, no request, tables that sort and copy, a narrow screen."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from test_report import made

pytestmark = pytest.mark.slow

WATCH = """<script>
const seen = {errors: [], copied: null};
addEventListener("error", (e) => seen.errors.push(e.message || "a file did not load"), true);
addEventListener("unhandledrejection", (e) => seen.errors.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => seen.errors.push("blocked: " + e.blockedURI));
</script>"""
TRY = """<script>
addEventListener("load", async () => {
  seen.requests = performance.getEntriesByType("resource").map((e) => e.name);
  const all = (what, inside = document) => [...inside.querySelectorAll(what)];
  const ids = all("[id]").map((e) => e.id);
  seen.ids = ids.length;
  seen.twice = ids.filter((id, i) => ids.indexOf(id) !== i);
  const hrefs = all("a").map((a) => a.getAttribute("href"));
  seen.links = hrefs.length;
  seen.dead = hrefs.filter((h) => !h.startsWith("#") || !document.getElementById(h.slice(1)));

  const table = all("table.data").find((t) => t.caption.innerText.startsWith("Common protocol"));
  const column = [...table.tHead.rows[0].cells].find((h) => h.innerText.trim() === "F1");
  const rows = () => [...table.tBodies[0].rows].map((r) => r.cells[column.cellIndex].dataset.v);
  const sorted = () => ({rows: rows(), sort: column.getAttribute("aria-sort")});
  seen.sorting = [sorted()];
  for (const _ of [1, 2]) { column.querySelector("button").click(); seen.sorting.push(sorted()); }

  Object.defineProperty(navigator, "clipboard", {value: {writeText: () => Promise.reject()}});
  document.execCommand = () => { seen.copied = document.activeElement.value; return true; };
  const button = table.closest(".box").querySelector(".copy");
  button.click();
  await new Promise((done) => setTimeout(done, 50));
  seen.label = button.textContent;
  seen.table = [table.rows.length, table.rows[0].cells.length];

  const zoom = all(".zoom").find((z) => all("img", z).length === 2);
  zoom.click();
  const dialog = document.querySelector("dialog");
  seen.zoomed = [dialog.open, all("img", dialog).length];
  dialog.close();

  const panel = all("details[id]")[0];
  location.hash = panel.id;
  await new Promise((done) => setTimeout(done, 50));
  seen.revealed = panel.open;

  all("details").forEach((d) => (d.open = true));
  seen.broken = all("img").filter((i) => !i.complete || !i.naturalWidth).length;
  seen.images = all("img").length;
  seen.width = [innerWidth, document.documentElement.scrollWidth];
  parent.postMessage(JSON.stringify(seen), "*");
});
</script>"""

NARROW = """<!doctype html><body><script>
addEventListener("message", (e) => {
  const out = document.createElement("pre");
  out.textContent = e.data;
  document.body.append(out);
});
</script><iframe src="page.html" width="390" height="800" style="border: 0"></iframe>"""


def chromium():
    """The browser's command, or a skip that says so."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    if not (found := next(filter(None, map(shutil.which, names)), None)):
        pytest.skip(f"no browser to open the page in: none of {', '.join(names)} is installed")
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a browser says of a page, and its console. The page stands in a frame 390 px wide,
    because no window is that narrow."""
    browser, folder = chromium(), tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        html, *_ = made(dataset="drive", published=True, crossed=True)
    html = html.replace("<head>", f"<head>{WATCH}").replace("</body>", f"{TRY}</body>")
    (folder / "page.html").write_text(html, encoding="utf-8")
    (folder / "frame.html").write_text(NARROW)
    words = ["--headless", "--no-sandbox", "--disable-gpu"]
    words += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000", "--dump-dom"]
    words += [f"--user-data-dir={folder / 'profile'}", (folder / "frame.html").as_uri()]
    ran = subprocess.run([browser, *words], capture_output=True, text=True, timeout=300)
    said = re.search(r"<pre>(.*?)</pre>", ran.stdout, re.DOTALL)
    assert said, ran.stderr
    console = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unescape(said[1])) | {"console": console}


def test_nothing_goes_wrong_and_nothing_is_asked_of_a_network(seen):
    assert seen["errors"] == [] and seen["console"] == []
    assert [r for r in seen["requests"] if not r.startswith("data:")] == []
    assert seen["images"] > 10 and seen["broken"] == 0


def test_ids_are_unique_and_links_lead_somewhere(seen):
    assert seen["ids"] > 30 and seen["twice"] == []
    assert seen["links"] > 50 and seen["dead"] == []
    assert seen["revealed"]


def test_a_header_sorts_its_table(seen):
    before, down, up = seen["sorting"]
    values = [float(v) for v in before["rows"]]
    assert before["sort"] is None and values != sorted(values)
    assert down["sort"] == "descending" and up["sort"] == "ascending"
    assert [float(v) for v in down["rows"]] == sorted(values, reverse=True)
    assert [float(v) for v in up["rows"]] == sorted(values)


def test_a_table_is_copied_as_tabs_where_there_is_no_clipboard(seen):
    lines = [line.split("\t") for line in seen["copied"].split("\n")]
    assert [len(lines), len(lines[0])] == seen["table"] and seen["label"] == "copied"
    assert {len(line) for line in lines} == {len(lines[0])}
    assert lines[0][0] == "Experiment" and any(line[0] == "net-a" for line in lines)


def test_a_picture_opens_with_all_its_layers(seen):
    assert seen["zoomed"] == [True, 2]


def test_a_narrow_screen_needs_no_scrolling_sideways(seen):
    inner, scrolled = seen["width"]
    assert inner == 390 and scrolled <= 390
