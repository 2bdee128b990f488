"""The report page in a real browser; skipped with a notice if there is no Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from finetune.monitoring.report import page
from tests.support.reports import HOSTILE, SECTIONS, example

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"),
    *("--disable-dev-shm-usage", "--v=0"),
)
# No browser window is as narrow as a phone, but a frame can be; the outer page may run a script and inspect it.
FRAME = """<!doctype html><title>empty</title><iframe src="/report.html" style="width:{0}px;height:800px;border:0"
onload="document.title = contentDocument.documentElement.scrollWidth + ' of {0}'"></iframe>"""
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: .ci/run installs it on Debian")


def browse(address: str, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open an address, and exit."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", *flags, address]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)


def console(process: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines of the page's console."""
    return [line for line in process.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture
def requests() -> Iterator[tuple[str, list[str]]]:
    """A server that serves the page and records the requests."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            frame = re.fullmatch(r"/framed/(\d+)", self.path)
            self.wfile.write((FRAME.format(frame[1]) if frame else page(example())).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/report.html", paths
    server.shutdown()
    thread.join()
    server.server_close()


def test_all_sections_render_without_console_messages(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(example()), encoding="utf-8")
    process = browse(file.as_uri(), tmp_path / "profile", "--dump-dom")
    assert tuple(re.findall(r'<section id="([a-z]+)"', process.stdout)) == SECTIONS
    assert console(process) == []


def test_script_in_user_text_is_displayed_not_executed(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(example()), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", browse(file.as_uri(), tmp_path / "profile", "--dump-dom").stdout)
    assert title is not None
    # If the script had run, the title would be `run`.
    assert title[1] == f"tiny on {HOSTILE}".replace("<", "&lt;").replace(">", "&gt;")


def test_browser_reports_blocked_scripts(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(example()).replace("<main>", "<main><script>1</script><img src='https://example.com/x'>"))
    process = browse(file.as_uri(), tmp_path / "profile", "--dump-dom")
    assert len(console(process)) >= 2, process.stderr


def test_page_makes_no_requests(tmp_path: Path, requests: tuple[str, list[str]]) -> None:
    address, paths = requests
    browse(address, tmp_path / "profile", "--dump-dom")
    # A browser requests an icon by itself.
    assert set(paths) <= {"/report.html", "/favicon.ico"}
    assert "/report.html" in paths


@pytest.mark.parametrize("width", [1280, 820, 390])
def test_page_fits_the_window_width(tmp_path: Path, requests: tuple[str, list[str]], width: int) -> None:
    address, _ = requests
    frame = address.replace("report.html", f"framed/{width}")
    dom = browse(frame, tmp_path / "profile", "--window-size=1400,900", "--dump-dom").stdout
    assert f"<title>{width} of {width}</title>" in dom
