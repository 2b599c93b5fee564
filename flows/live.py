"""`ferflow live`: what a camera sees, with the faces' expressions, on a page for this machine only, or in a window."""

import os
import secrets
import sys
import threading
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flows.live_server import HOST, LiveServer, listen
from tasks.cameras import open_camera, shown_name
from tasks.errors import UserError
from tasks.expressions import COLOURS
from tasks.label import champion_of
from tasks.live import Live, default_champion, live_settings
from tasks.live_page import live_page
from tasks.pictures import mark

ESCAPE = 27  # the key's code
LOOKS = 0.05  # s between two looks for a key


def live(camera: str, port: int | None, browser: bool, window: bool, champion: Path | None) -> None:
    """Show what the camera sees until somebody stops it.

    Args:
        camera: what tasks.cameras.open_camera takes.
        port: of the page; None: any that is free.
        browser: open the page in one, where there is one.
        window: a window in the page's place.
        champion: folder of the model; None: the small edition, or else the champion.

    Raises:
        UserError: no camera, champion, port or screen; or the camera is gone.
    """
    if window and not has_screen():
        raise UserError("no screen for --window (neither DISPLAY nor WAYLAND_DISPLAY is set); leave it out for a page")
    champion = champion or default_champion()
    settings = live_settings(champion)
    name, version = shown_name(camera), champion_of(settings).version
    server = None if window else LiveServer(listen(port), secrets.token_urlsafe(24), live_page(name, version))
    with Live(open_camera(camera), settings) as seen:
        print(f"Live: {name}; the expressions are named by {version} ({champion})", flush=True)
        if server:
            _serve(seen, server, browser)
        else:
            _show(seen, name)
    if seen.error:
        raise seen.error


def has_screen() -> bool:
    """Whether this program can open windows."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _show(seen: Live, name: str) -> None:
    """A window, until q, Esc, or its closing."""
    import cv2

    print("q or Esc in the window ends it", flush=True)
    cv2.namedWindow(name)
    number = 0
    while not seen.ended and cv2.getWindowProperty(name, cv2.WND_PROP_VISIBLE) >= 1:
        if moment := seen.after(number, LOOKS):
            number = moment.number
            for face in moment.faces.values():
                mark(moment.image, face.box, f"{face.label} {face.confidence:.0%}", COLOURS[face.label])
            cv2.imshow(name, moment.image)
        if cv2.waitKey(1) & 0xFF in (ord("q"), ESCAPE):
            break
    cv2.destroyAllWindows()


def _serve(seen: Live, server: LiveServer, browser: bool) -> None:
    """The page, until somebody stops it or the camera ends."""
    print(f"Page: {server.address}")
    print(
        f"Over SSH: ssh -L {server.port}:{HOST}:{server.port} HOST on your computer, and open the same address there",
        flush=True,
    )
    if browser and has_screen():
        # It may wait for the browser.
        threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
    # Not on the main thread, where uvicorn would take Ctrl-C for itself and cut the viewers off without a word.
    with ThreadPoolExecutor(1, "server") as pool:
        serving = pool.submit(server.run, seen)
        try:
            serving.result()
        except KeyboardInterrupt:
            server.stop(seen)
            raise
