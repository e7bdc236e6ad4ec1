"""Answers the page on this machine; what is sent is used for one answer and forgotten."""

import json
import math
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import safetensors.numpy
import uvicorn
from safetensors import SafetensorError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from rvq.codec.codec import Codec
from rvq.codec.models import find
from rvq.errors import InputError, RvqError
from rvq.web import listening

PAGE = Path(__file__).parent / "page"
_LOCAL = ("127.0.0.1", "localhost", "::1")


def create_app(model: str | Path, *, hosts: tuple[str, ...] = _LOCAL) -> Starlette:
    """The application.

    Args:
        model: name or folder of the model.
        hosts: names by which browsers may address it; others are refused, so that no web site can
            reach the page by a name of its own that points here. `("*",)` allows all.

    Raises:
        ModelError: no such model, or a damaged one.
    """
    codec = Codec.load(model)
    facts = listening.about(codec, "server")

    async def about(request: Request) -> Response:
        return JSONResponse(facts)

    async def codebooks(request: Request) -> Response:
        return FileResponse(
            find(model) / "codebooks.safetensors", media_type="application/octet-stream"
        )

    async def encode(request: Request) -> Response:
        encoded = await run_in_threadpool(listening.encode, codec, await _body(request))
        return _tensors(
            {"samples": encoded.samples, "latents": encoded.latents, "codes": encoded.codes},
            seconds_read=encoded.seconds_read,
            file_bytes=list(encoded.file_bytes),
        )

    async def decode(request: Request) -> Response:
        latents = _tensor(await _body(request), "latents")
        n_samples = request.query_params.get("n_samples", "")
        if not n_samples.isascii() or not n_samples.isdigit():
            raise InputError(f"n_samples must be a number, got {n_samples!r}")
        samples = await run_in_threadpool(
            listening.decode, codec.runtime, latents, int(n_samples[:12])
        )
        return _tensors({"samples": samples})

    async def peer(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in listening.installed_peers():
            raise InputError(f"there is no codec {name!r} here")
        samples = _tensor(await _body(request), "samples")
        if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
            raise InputError("samples must be [n], finite and not empty")
        rate = codec.runtime.sample_rate
        if len(samples) > listening.MAX_SECONDS * rate:
            raise InputError(f"at most {listening.MAX_SECONDS} s at once")
        result = await run_in_threadpool(listening.through_peer, name, samples, rate)
        return _tensors(
            {"samples": result.samples},
            file_bytes=result.file_bytes,
            payload_bytes=result.payload_bytes,
        )

    return Starlette(
        routes=[
            Route("/about.json", about),
            Route("/model/codebooks.safetensors", codebooks),
            Route("/api/encode", encode, methods=["POST"]),
            Route("/api/decode", decode, methods=["POST"]),
            Route("/api/peer/{name}", peer, methods=["POST"]),
            Mount("/samples", StaticFiles(directory=listening.SAMPLES)),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)),
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
        host: address to listen on; anything but this machine's own lets others in.
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
        app = create_app(model, hosts=_LOCAL if host in _LOCAL else ("*",))
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listener.getsockname()[1]}/")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


class _SameSite:
    """Refuses requests that another site's page makes through the user's browser."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        site = b"none"
        if scope["type"] == "http":
            site = dict(scope["headers"]).get(b"sec-fetch-site", b"none")
        if site in (b"cross-site", b"same-site") and scope["method"] != "GET":
            await JSONResponse({"error": "asked by another site"}, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def _body(request: Request) -> bytes:
    """The body, in memory, refused as soon as it is too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > listening.MAX_BYTES:
            raise HTTPException(413, f"at most {listening.MAX_BYTES // 10**6} MB can be sent")
        parts.append(part)
    return b"".join(parts)


def _tensor(data: bytes, name: str) -> np.ndarray:
    try:
        tensor = safetensors.numpy.load(data)[name]
    except (SafetensorError, KeyError):
        raise InputError(f"expected a safetensors body with {name!r}") from None
    if tensor.dtype != np.float32:
        raise InputError(f"{name} must be float32, got {tensor.dtype}")
    return tensor


def _tensors(arrays: dict[str, np.ndarray], **facts: object) -> Response:
    """Arrays and facts in one body: safetensors, with the facts as JSON in its metadata."""
    facts = {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in facts.items()
    }
    body = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        metadata={"facts": json.dumps(facts)},
    )
    return Response(body, media_type="application/octet-stream")


def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)
