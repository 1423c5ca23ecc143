"""MCP servers by the official SDK, on one port of loopback, for as long as standard input is open.

An address is /<tag>/<kind>/mcp. The tag is the test's own word for what it is asked under; the kinds differ in how they
answer and in what they offer. Each request is told on standard output, one JSON object a line.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
import urllib.parse

import uvicorn
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

logging.disable()

TOKEN = "mcp-token-0123456789"

# Who waits for whom in `meet`, and how often a session has called `count`.
rooms: dict[str, asyncio.Event] = {}
counts: dict[str, int] = {}


class Verifier:
    async def verify_token(self, token: str) -> AccessToken | None:
        return AccessToken(token=token, client_id="gateway", scopes=[]) if token == TOKEN else None


def offering(server: MCPServer) -> MCPServer:
    @server.tool()
    def add(a: int, b: int) -> str:
        """Adds two numbers."""
        return f"the sum is {a + b}"

    @server.tool()
    def echo(text: str) -> str:
        """Says it again."""
        return text

    @server.tool()
    async def meet(room: str) -> str:
        """Returns when two calls are in the room at the same time."""
        waiting = rooms.pop(room, None)
        if waiting is not None:
            waiting.set()
            return "together"
        rooms[room] = asyncio.Event()
        try:
            await asyncio.wait_for(rooms[room].wait(), 8)
            return "together"
        except TimeoutError:
            rooms.pop(room, None)
            return "alone"

    @server.tool()
    def count(context: Context) -> str:
        """How often this session has called it."""
        session = context.request_context.request.headers.get("mcp-session-id", "none")
        counts[session] = counts.get(session, 0) + 1
        return f"call {counts[session]}"

    @server.tool()
    async def hang() -> str:
        """Never returns."""
        await asyncio.sleep(3600)
        return "late"

    @server.tool()
    def fails() -> str:
        """Fails."""
        raise ToolError("out of paper")

    @server.tool(structured_output=False)
    def long(chars: int) -> str:
        """A long text."""
        return "x" * chars

    @server.tool()
    def picture() -> list[str | Image]:
        """A text and a picture."""
        return ["look", Image(data=b"\x89PNG", format="png")]

    return server


def other() -> MCPServer:
    server = MCPServer("other")

    @server.tool()
    def add(a: int, b: int) -> str:
        """Adds otherwise."""
        return f"the other sum is {a + b}"

    @server.tool()
    def sub(a: int, b: int) -> str:
        """Subtracts."""
        return f"the difference is {a - b}"

    return server


def locked() -> MCPServer:
    auth = AuthSettings(
        issuer_url="https://issuer.example",
        resource_server_url="https://localhost/mcp",
        required_scopes=[],
        validate_token_resource=False,
    )
    return offering(MCPServer("locked", token_verifier=Verifier(), auth=auth))


APPS = {
    "sse": offering(MCPServer("sse")).streamable_http_app(),
    "json": offering(MCPServer("json")).streamable_http_app(json_response=True),
    "stateless": offering(MCPServer("stateless")).streamable_http_app(stateless_http=True),
    "other": other().streamable_http_app(),
    "locked": locked().streamable_http_app(),
    # The transport of the protocol's first version.
    "legacy": offering(MCPServer("legacy")).sse_app(sse_path="/mcp"),
    "locked-legacy": locked().sse_app(sse_path="/mcp"),
}


def tell(scope, tag: str, kind: str, body: bytes, method: str | None = None) -> None:
    query = urllib.parse.parse_qs(scope["query_string"].decode())
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    try:
        asked = json.loads(body)
    except ValueError:
        asked = {}
    line = {
        "tag": tag,
        "kind": kind,
        "method": method or scope["method"],
        "rpc": asked.get("method", ""),
        "params": asked.get("params") or {},
        "session": headers.get("mcp-session-id") or query.get("session_id", [None])[0],
        "authorization": headers.get("authorization"),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def whole(receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def front(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    parts = scope["path"].split("/", 3)
    if len(parts) != 4 or parts[2] not in APPS:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        return await send({"type": "http.response.body", "body": b""})
    tag, kind, rest = parts[1:]
    body = await whole(receive) if scope["method"] == "POST" else b""
    tell(scope, tag, kind, body)
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def again():
        return pending.pop() if pending else await receive()

    inner = dict(scope, path="/" + rest, raw_path=("/" + rest).encode())
    if not kind.endswith("legacy"):
        return await APPS[kind](inner, again, send)
    # It says where messages are posted, and so must know where it is.
    await APPS[kind](dict(scope, root_path=f"/{tag}/{kind}"), again, send)
    if scope["method"] == "GET":
        tell(scope, tag, kind, b"", "END")


async def lifespan(receive, send):
    async with contextlib.AsyncExitStack() as stack:
        await receive()
        for app in APPS.values():
            await stack.enter_async_context(app.router.lifespan_context(app))
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        sys.stdout.write(json.dumps({"port": port}) + "\n")
        sys.stdout.flush()


def until_the_end():
    sys.stdin.buffer.read()
    os._exit(0)


threading.Thread(target=until_the_end, daemon=True).start()
Server(uvicorn.Config(front, host="127.0.0.1", port=0, log_level="error", lifespan="on")).run()
