"""The server of the live page: on this machine's loopback address, for those who have the token of its address.

So no other user of the machine sees it, and no other page in the browser, whose name for this machine or whose origin would be
another. A viewer gets one frame at a time, the newest, and the next one when it has shown that: a slow one sees fewer frames, not
older ones.
"""

import asyncio
import errno
import json
import os
import re
import secrets
import socket
import struct
import time
from contextlib import suppress
from typing import NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from tasks.errors import UserError
from tasks.live import Live, Moment

HOST = "127.0.0.1"
NAMES = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")  # any port: SSH may forward from another one
QUALITY = 80  # of the JPEG pictures
STOP = "stop"  # what a viewer sends to end the program; anything else says that the frame is shown
LEAVES = 1.0  # s that viewers may take to hear that it has ended
LOOKS = 0.05  # s between two looks for whether they have left
WHOLE = 10_000  # probabilities are sent in ten-thousandths
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def listen(port: int | None) -> socket.socket:
    """Take the port of the page on this machine.

    Raises:
        UserError: another program has it.
    """
    try:
        return socket.create_server((HOST, port or 0))
    except OSError as error:
        reason = os.strerror(error.errno or errno.EADDRINUSE).lower()
        raise UserError(f"port {port} cannot be used ({reason}); leave --port out for a free one") from error


class _Message(NamedTuple):
    """A moment as it is sent."""

    number: int
    time: float  # s, when the camera gave the frame
    header: dict[str, object]
    picture: bytes

    def packed(self, delay: float | None) -> bytes:
        """The bytes for one viewer, to whom the last frame came so many s after the camera gave it."""
        header = json.dumps(self.header | {"delay": None if delay is None else round(delay * 1000)}).encode()
        return struct.pack(">I", len(header)) + header + self.picture


def _message(moment: Moment) -> _Message:
    import cv2

    faces = [
        [track, *face.box[:4], *(round(probability * WHOLE) for probability in face.probabilities)]
        for track, face in moment.faces.items()
    ]
    header = {
        "number": moment.number,
        "time": round(moment.time, 3),
        "faces": faces,
        "rate": moment.rate,
        "dropped": moment.dropped,
    }
    _, picture = cv2.imencode(".jpg", moment.image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return _Message(moment.number, moment.time, header, picture.tobytes())


class LiveServer:
    """The page and its viewers.

    Args:
        listener: the socket to serve.
        token: that the address has to hold.
        page: the document and its policy.
    """

    def __init__(self, listener: socket.socket, token: str, page: tuple[str, str]) -> None:
        self._listener, self._token, self._page = listener, token, page
        self.port: int = listener.getsockname()[1]
        self.address = f"http://{HOST}:{self.port}/{token}/"
        self._newest: _Message | None = None
        self._came = asyncio.Event()  # replaced each time
        self._over = False
        self._farewell = ["The video has ended, and ferflow with it."]  # a text of live.js, and its values
        self._viewers: set[asyncio.Event] = set()  # of each, whether its frame is shown

    def run(self, seen: Live) -> None:
        """Serve what is seen until it ends, or somebody stops it."""
        asyncio.run(self._run(seen))

    def stop(self, seen: Live) -> None:
        """End it, as somebody wants; from any thread."""
        self._farewell = ["ferflow was stopped. `ferflow live` starts it again."]
        seen.stop()

    async def _run(self, seen: Live) -> None:
        config = uvicorn.Config(
            guarded(self._app(seen), self._token),
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            server_header=False,
            ws_per_message_deflate=False,  # the pictures are packed already
            ws_max_size=1024,  # bytes that a viewer may send at a time
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        publishing = asyncio.create_task(self._publish(seen, server))
        try:
            await server.serve([self._listener])
        finally:
            seen.stop()
            await publishing

    def _app(self, seen: Live) -> ASGIApp:
        document, policy = self._page

        async def send_page(_: Request) -> HTMLResponse:
            return HTMLResponse(document, headers=HEADERS | {"Content-Security-Policy": policy})

        async def view(websocket: WebSocket) -> None:
            await self._view(websocket, seen)

        return Starlette(
            routes=[Mount(f"/{self._token}", routes=[Route("/", send_page), WebSocketRoute("/frames", view)])]
        )

    async def _publish(self, seen: Live, server: uvicorn.Server) -> None:
        """Make each moment a message, once for all viewers, and wake them; in the end, end the server."""
        number = 0
        while moment := await asyncio.to_thread(seen.after, number):
            number = moment.number
            # Who comes when nobody was there must not see how it was when the last one left.
            self._wake(await asyncio.to_thread(_message, moment) if self._viewers else None)
        if seen.error:
            self._farewell = ["The camera is lost, and ferflow has ended: {0}", str(seen.error)]
        await self._end()
        server.should_exit = True

    async def _end(self) -> None:
        """Tell the viewers why it is the end, and let them leave."""
        self._over = True
        self._wake(None)
        for shown in self._viewers:
            shown.set()
        deadline = time.monotonic() + LEAVES
        while self._viewers and time.monotonic() < deadline:
            await asyncio.sleep(LOOKS)

    def _wake(self, message: _Message | None) -> None:
        self._newest = message
        self._came.set()
        self._came = asyncio.Event()

    async def _view(self, websocket: WebSocket, seen: Live) -> None:
        """A viewer, from its first frame to its leaving."""
        await websocket.accept()
        shown = asyncio.Event()
        sending = asyncio.create_task(self._send(websocket, shown))
        self._viewers.add(shown)
        try:
            async for text in websocket.iter_text():
                if text == STOP:
                    self.stop(seen)
                shown.set()
        finally:
            sending.cancel()
            self._viewers.discard(shown)

    async def _send(self, websocket: WebSocket, shown: asyncio.Event) -> None:
        """Send the newest frame, again and again, each when the one before is shown; in the end, why it is the end.

        Closing is the viewer's: if it were cut off while it says something, the system would drop what it has not read yet.
        """
        number, delay = 0, None
        with suppress(WebSocketDisconnect):
            while message := await self._after(number):
                number = message.number
                shown.clear()
                await websocket.send_bytes(message.packed(delay))
                await shown.wait()
                delay = time.monotonic() - message.time
            await websocket.send_text(json.dumps(self._farewell))

    async def _after(self, number: int) -> _Message | None:
        """The newest message, when its number is greater; None if there will be none."""
        while not self._over:
            if self._newest and self._newest.number > number:
                return self._newest
            await self._came.wait()
        return None


def guarded(app: ASGIApp, token: str) -> ASGIApp:
    """The application for those who know the token, and under this machine's own names only; 403 for others."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if is_allowed(scope, token):
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # before it was accepted: 403
        else:
            await PlainTextResponse("403: the address that `ferflow live` printed is the only one\n", 403)(
                scope, receive, send
            )

    return guard


def is_allowed(scope: Scope, token: str) -> bool:
    """Whether a request names this machine as its host, comes from no other page, and has the token in its path."""
    headers = Headers(scope=scope)
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    given = scope["path"].removeprefix("/").partition("/")[0]
    return (
        len(hosts) == 1
        and NAMES.fullmatch(hosts[0]) is not None
        and all(origin == f"http://{hosts[0]}" for origin in origins)
        and secrets.compare_digest(given.encode(), token.encode())
    )
