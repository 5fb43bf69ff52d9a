"""Serve the built site on this machine and open it in a browser; Ctrl-C ends it."""

from __future__ import annotations

import functools
import http.server
import sys
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Take the first free port from 8000 on."""
    site = ROOT / "_build" / "html"
    if not (site / "index.html").exists():
        print("There is no site yet: run `make book` first.")
        return 1
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    for port in range(8000, 8050):
        try:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError:  # taken
            continue
        address = f"http://127.0.0.1:{port}/"
        print(f"The book is at {address} (Ctrl-C to stop).", flush=True)
        webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
        return 0
    print("Ports 8000 to 8049 are all taken.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
