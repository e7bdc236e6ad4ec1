"""Answers the page on this machine; what is sent is used for one answer and forgotten."""

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from rvq.codec.codec import Codec
from rvq.codec.frames import check_samples
from rvq.codec.models import find
from rvq.errors import InputError, RvqError
from rvq.model_folder import CODEBOOKS
from rvq.web import listening
from rvq.web.tensors import pack, unpack

_T = TypeVar("_T")

PAGE = Path(__file__).parent / "page"
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_AT_ONCE = 2
_PATIENCE = 3  # seconds that running requests have left after Ctrl-C
_HOST_AND_PORT = re.compile(r"([^:\[\]]+|\[[0-9a-f:.]+\])(:[0-9]*)?", re.IGNORECASE)


def create_app(
    model: str | Path, *, hosts: tuple[str, ...] = _LOCAL, addresses: bool = False
) -> Starlette:
    """The application.

    Args:
        model: name or folder of the model.
        hosts: names by which browsers may address it, as in a URL, lower case; others are refused,
            so that no web site can reach the page by a name of its own that points here.
        addresses: whether any IP address is taken beside them; none is a web site's own name.

    Raises:
        ModelError: no such model, or a damaged one.
    """
    codec = Codec.load(model)
    facts = listening.about(codec, "server")
    samples = _Samples(codec)
    samples.ask(facts["samples"][0]["id"])  # the page will, as soon as it is open

    turns = asyncio.Semaphore(_AT_ONCE)  # or memory and time would grow with those who ask

    async def compute(function: Callable[..., _T], *args: Any) -> _T:
        async with turns:
            return await run_in_threadpool(function, *args)

    async def about(request: Request) -> Response:
        return JSONResponse(facts)

    async def codebooks(request: Request) -> Response:
        return FileResponse(find(model) / CODEBOOKS, media_type="application/octet-stream")

    async def sample(request: Request) -> Response:
        name = request.path_params["name"]
        if all(name != one["id"] for one in facts["samples"]):
            raise HTTPException(404)
        return _binary(await asyncio.wrap_future(samples.ask(name)))

    async def encode(request: Request) -> Response:
        encoded = await compute(listening.encode, codec, await _body(request))
        return _binary(encoded.to_bytes())

    async def decode(request: Request) -> Response:
        latents = unpack(await _body(request), "latents")
        n_samples = request.query_params.get("n_samples", "")
        if not re.fullmatch("[0-9]{1,12}", n_samples):
            raise InputError(
                f"n_samples must be a number of 1 to 12 digits, got {n_samples[:40]!r}"
            )
        decoded = await compute(listening.decode, codec.runtime, latents, int(n_samples))
        return _binary(pack({"samples": decoded}))

    async def peer(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in listening.installed_peers():
            raise InputError(f"there is no codec {name!r} here")
        audio = unpack(await _body(request), "samples")
        if audio.ndim != 1 or not audio.size:
            raise InputError(f"samples must be [n] and not empty, got {audio.shape}")
        check_samples(audio, "the recording")
        rate = codec.runtime.sample_rate
        if len(audio) > listening.MAX_SECONDS * rate:
            raise InputError(f"at most {listening.MAX_SECONDS} s at once")
        result = await compute(listening.through_peer, name, audio, rate)
        sizes = {"file_bytes": result.file_bytes, "payload_bytes": result.payload_bytes}
        return _binary(pack({"samples": result.samples}, **sizes))

    return Starlette(
        routes=[
            Route("/about.json", about),
            Route(f"/model/{CODEBOOKS}", codebooks),
            Route("/api/encode", encode, methods=["POST"]),
            Route("/api/decode", decode, methods=["POST"]),
            Route("/api/peer/{name}", peer, methods=["POST"]),
            Route("/samples/{name}.safetensors", sample),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[
            Middleware(_KnownHost, hosts=hosts, addresses=addresses),
            Middleware(_SameSite),
        ],
        exception_handlers={RvqError: _refuse},
    )


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer until interrupted.

    Args:
        model: name or folder of the model.
        host: address to listen on; anything but this machine's own lets others in, who reach the
            page by an address, by this machine's name, or by `host`.
        port: TCP port, 0 for any free one.
        ready: called with the page's address as soon as it answers.

    Raises:
        InputError: the port is in use, or the address is not this machine's.
        ModelError: no such model, or a damaged one.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(64)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"cannot listen on {host} port {port} ({error}); choose another with --port"
            ) from None
        shown = f"[{host}]" if ":" in host else host
        address, port = listener.getsockname()[:2]
        local = ip_address(address).is_loopback
        hosts = {*_LOCAL, shown.lower()}
        if not local:
            hosts |= _own_names()
        app = create_app(model, hosts=tuple(hosts), addresses=not local)
        ready(f"http://{shown}:{port}/")
        config = uvicorn.Config(
            app,
            log_level="warning",
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=_PATIENCE,
        )
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        uvicorn.Server(config).run(sockets=[listener])


def _is_news(record: logging.LogRecord) -> bool:
    """Whether it is more than the traceback of a request that Ctrl-C has ended."""
    return not record.exc_info or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _own_names() -> set[str]:
    """What this machine calls itself, and what its neighbours may call it."""
    names = {socket.gethostname().lower(), socket.getfqdn().lower()}
    return names | {name.partition(".")[0] + ".local" for name in names} - {".local"}


class _Samples:
    """The shipped samples as the page wants them, each made once, when first asked for."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._worker = ThreadPoolExecutor(1)
        self._made: dict[str, Future[bytes]] = {}

    def ask(self, name: str) -> Future[bytes]:
        if name not in self._made:
            self._made[name] = self._worker.submit(
                lambda: listening.sample(self._codec, name).to_bytes()
            )
        return self._made[name]


class _KnownHost:
    """Refuses requests to another name; Starlette's own cuts IPv6 addresses at the first colon."""

    def __init__(
        self, app: Callable[..., Awaitable[None]], hosts: tuple[str, ...], addresses: bool
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._addresses = addresses

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan" or self._knows(scope):
            await self._app(scope, receive, send)
        else:
            await JSONResponse({"error": "asked by an unknown name"}, 400)(scope, receive, send)

    def _knows(self, scope: dict) -> bool:
        found = _HOST_AND_PORT.fullmatch(Headers(scope=scope).get("host", ""))
        if found is None:
            return False
        return found[1].lower() in self._hosts or (self._addresses and _is_address(found[1]))


class _SameSite:
    """Refuses requests that another site's page makes through the user's browser.

    Browsers say `Sec-Fetch-Site` only to https and localhost, `Origin` with every POST.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "http" and self._is_foreign(scope["method"], Headers(scope=scope)):
            await JSONResponse({"error": "asked by another site"}, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    @staticmethod
    def _is_foreign(method: str, headers: Headers) -> bool:
        origin = headers.get("origin")  # "null" of a page that hides where it comes from
        host = headers.get("host", "")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return True
        return method != "GET" and headers.get("sec-fetch-site") in ("cross-site", "same-site")


def _is_address(host: str) -> bool:
    """Whether the host of a URL is an IP address."""
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


async def _body(request: Request) -> bytes:
    """The body, in memory, refused as soon as it is too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > listening.MAX_BYTES:
            raise HTTPException(413, f"at most {listening.MAX_BYTES // 10**6} MB can be sent")
        parts.append(part)
    return b"".join(parts)


def _binary(body: bytes) -> Response:
    return Response(body, media_type="application/octet-stream")


def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)
