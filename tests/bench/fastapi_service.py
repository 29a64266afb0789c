"""The plain service on FastAPI, which many would write first: `python -m tests.bench.fastapi_service`.

FastAPI under uvicorn on uvloop, an asyncpg pool, one awaited aiomqtt publication for each webhook, which it
believes. Needs the extra ``bench``. Prints the port it listens on.
"""

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import aiomqtt
import asyncpg
import uvicorn
import uvloop
from fastapi import FastAPI, Header, HTTPException, Request

from tests.bench.plain_service import CONNECTIONS, grant, is_signed


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    quiet = logging.getLogger("plain.mqtt")
    quiet.setLevel(logging.ERROR)  # aiomqtt warns of every call while ten others wait
    async with (
        asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS) as pool,
        aiomqtt.Client(
            os.environ["MQTT_HOST"], int(os.environ["MQTT_PORT"]), identifier="fastapi", logger=quiet
        ) as mqtt,
    ):
        app.state.pool, app.state.mqtt = pool, mqtt
        yield


async def settle(request: Request, btcpay_sig: Annotated[str, Header()] = "") -> dict[str, bool]:
    body = await request.body()
    if not is_signed(body, btcpay_sig):
        raise HTTPException(403)
    state = request.app.state
    await grant(state.pool, state.mqtt, json.loads(body))
    return {"recorded": True}


app = FastAPI(lifespan=lifespan)
app.add_api_route("/webhook", settle, methods=["POST"])


async def serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # who connects before the application is up waits for it
    sys.stdout.close()
    config = uvicorn.Config(app, log_config=None, access_log=False, http="httptools")
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as main:
        main.run(serve())
