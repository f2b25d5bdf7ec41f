"""Save a picture of a whole notebook as a reader sees it: `python tools/screenshot.py NOTEBOOK OUT.png [--lab | --dark]`.

For developers, with Debian's chromium (`apt-get install chromium`). Without an option the notebook is shown as
nbconvert's web page, whose formulas and widgets need a network. `--lab` shows it in JupyterLab, with both, and needs
`pip install playwright` besides. The notebook is not executed: what is seen are its saved outputs.
"""

import argparse
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

WIDTH = 1200
MAX_HEIGHT = 16_000  # chromium's largest picture; what is below is cut off
# A notebook draws only the cells in view, and news would cover a corner of it.
LAB_SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none", "scrollPastEnd": False},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
# A saved widget would come first, and fetch its code from a network; its picture stands in for it.
_STATIC = "--NbConvertBase.display_data_priority=['image/png','text/html','text/markdown','image/svg+xml','text/plain']"
HEIGHT_PROBE = (
    "<script>addEventListener('load', () => document.title = 'height=' + document.body.scrollHeight)</script>"
)


def shoot_page(notebook: Path, picture: Path, chromium: str) -> None:
    """Picture the notebook as nbconvert's web page."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        convert = [
            sys.executable,
            "-m",
            "nbconvert",
            "--to",
            "html",
            _STATIC,
            "--output",
            str(page),
            str(notebook.resolve()),
        ]
        subprocess.run(convert, check=True, capture_output=True)
        page.write_text(page.read_text(encoding="utf-8") + HEIGHT_PROBE, encoding="utf-8")
        browser = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        browser += ["--virtual-time-budget=5000", f"--user-data-dir={folder}/profile"]
        size = f"--window-size={WIDTH}"
        dom = subprocess.run([*browser, f"{size},800", "--dump-dom", page.as_uri()], check=True, capture_output=True)
        found = re.search(rb"<title>height=(\d+)", dom.stdout)
        height = min(int(found[1]) if found else 3000, MAX_HEIGHT)
        shot = [*browser, f"{size},{height}", f"--screenshot={picture.resolve()}", page.as_uri()]
        subprocess.run(shot, check=True, capture_output=True)


def shoot_lab(notebook: Path, picture: Path, chromium: str, dark: bool = False) -> None:
    """Picture the notebook in JupyterLab, trusted, in its single-document mode."""
    from playwright.sync_api import sync_playwright

    subprocess.run([sys.executable, "-m", "jupyter", "trust", str(notebook)], check=True, capture_output=True)
    place = notebook.resolve()
    # Served from the folder above, as `make lab` does, so that links such as ../docs/loop.svg resolve.
    with running_lab(place.parents[1], dark) as url, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.goto(f"{url}/doc/tree/{quote(place.parent.name)}/{quote(place.name)}")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.wait_for_timeout(4000)  # widgets and formulas are drawn after the cells
        # The notebook scrolls inside the window, so the window is made as high as what it holds.
        scroller = page.locator(".jp-WindowedPanel-outer").first
        hidden = scroller.evaluate("panel => panel.scrollHeight - panel.clientHeight")
        page.set_viewport_size({"width": WIDTH, "height": min(900 + int(hidden) + 20, MAX_HEIGHT)})
        page.wait_for_timeout(1500)
        page.screenshot(path=str(picture))
        browser.close()


@contextmanager
def running_lab(folder: Path, dark: bool = False) -> Iterator[str]:
    """Run JupyterLab in a folder, on a free local port, with settings of its own; give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        themes = {"@jupyterlab/apputils-extension/themes": {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"}}
        for name, values in (LAB_SETTINGS | themes).items():
            path = Path(scratch, "settings", f"{name}.jupyterlab-settings")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
        command += ["--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
        command += [f"--LabApp.user_settings_dir={scratch}/settings", f"--LabApp.workspaces_dir={scratch}/workspaces"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(f"http://127.0.0.1:{port}/api", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=20)


def wait_for(url: str, server: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(
        f"JupyterLab did not answer at {url} within {seconds:g} s; start `jupyter lab` by hand to see why"
    )


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--lab", action="store_true", help="show it in JupyterLab, which needs playwright")
    parser.add_argument("--dark", action="store_true", help="the same in its dark theme")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("chromium was not found on PATH; install it with: apt-get install chromium", file=sys.stderr)
        return 1
    try:
        if options.lab or options.dark:
            shoot_lab(options.notebook, options.picture, chromium, options.dark)
        else:
            shoot_page(options.notebook, options.picture, chromium)
    except ModuleNotFoundError:
        print("--lab needs playwright; install it with: pip install playwright", file=sys.stderr)
        return 1
    print(f"{options.picture} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
