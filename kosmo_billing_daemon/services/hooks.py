"""Sends events to operators' endpoints: each at least once, in order, one worker per endpoint.

What waits is in the database until its endpoint has accepted it, so whoever leads next continues. An endpoint
that does not accept is tried again for a day, and meanwhile holds up its own events only.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from kosmo_billing_daemon.contract.encoding import loads, rfc3339
from kosmo_billing_daemon.domain.hook_texts import parse_texts
from kosmo_billing_daemon.domain.hooks import LONGEST_WAIT, reason_to_give_up, wait_after
from kosmo_billing_daemon.errors import Refused, Unavailable
from kosmo_billing_daemon.hooks.client import MOST_BYTES, HookAnswer, HookClient
from kosmo_billing_daemon.hooks.signature import signed_headers
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.loop import Loop
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.event_messages import event_id, message
from kosmo_billing_daemon.services.topups import TopUps
from kosmo_billing_daemon.store import events, hooks
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.events import Event, StoredEvent
from kosmo_billing_daemon.store.hooks import GivenAnswer, Hook, HookWork
from kosmo_billing_daemon.store.postgres import Pool

log = logging.getLogger(__name__)

BATCH: Final = 50
"""Events sent before the database is told of them. After a crash these are sent again, with the same ids."""

ROUND: Final = 1.0  # seconds of sending after which it is told anyway
GATHERS: Final = 0.02  # seconds; events come in numbers, and each transaction wakes the senders
FINISH_WITHIN: Final = 1.0  # seconds for the database at the end of a term

_OMITTED: Final = '{"omitted":"larger than 64 KiB"}'


@record
class HookMessage:
    """What is sent for one event."""

    id: str
    body: bytes
    headers: Mapping[str, str]


def message_of(hook: Hook, database: UUID, event: StoredEvent) -> HookMessage | None:
    """Make the message for an event; ``None`` where the hook's texts say nothing about it."""
    number = event_id(event, database)
    if hook.texts is not None:
        texts = parse_texts(hook.texts)
        subject = None if event.user_id is None else str(event.user_id)
        facts = {**loads(event.full_data.encode()), "type": event.type, "user_id": subject}
        text = texts.render(event.type, facts)
        headers = {**texts.headers, "Content-Type": texts.content_type}
        return None if text is None else HookMessage(number, text, headers)
    body = message(event, database)
    if len(body) > MOST_BYTES:
        body = message(event, database, _OMITTED)
    return HookMessage(number, body, {"Content-Type": "application/json"})


async def send(client: HookClient, hook: Hook, sent: HookMessage, now: datetime) -> HookAnswer:
    """Sign and send one message."""
    headers = {**sent.headers, **signed_headers(hook.secret, sent.id, int(now.timestamp()), sent.body)}
    return await client.send(hook.url, sent.body, headers, allow_private=hook.allow_private)


class HookSenders:
    """One worker for each hook that is on, for as long as this daemon leads."""

    def __init__(self, *, pool: Pool, clock: Clock, client: HookClient, topups: TopUps) -> None:
        self._pool = pool
        self._topups = topups
        self._clock = clock
        self._client = client
        self._workers: dict[int, tuple[Loop, asyncio.Task[None]]] = {}
        self._next_tries: dict[int, datetime] = {}
        self.loop = Loop("hooks", self._look, clock=clock, gather=GATHERS)

    def wake(self) -> None:
        """Look for events, and for hooks that were added or removed."""
        self.loop.wake()

    async def run(self) -> None:
        """Send until cancelled."""
        try:
            async with self._client, asyncio.TaskGroup() as self._group:
                self._group.create_task(self.loop.run())
        finally:
            self._workers.clear()

    async def _look(self) -> int:
        async with self._pool.connection() as connection:
            active = await hooks.load_active(connection)
        for hook_id in self._workers.keys() - active.keys():
            _, task = self._workers.pop(hook_id)
            task.cancel()
        for hook_id, waits in active.items():
            if hook_id not in self._workers:
                loop = self._worker(hook_id)
                self._workers[hook_id] = loop, self._group.create_task(loop.run())
            elif waits:
                self._workers[hook_id][0].wake()
        return 0

    def _worker(self, hook_id: int) -> Loop:
        async def next_due() -> datetime | None:
            return self._next_tries.get(hook_id)

        send_waiting = partial(self._send_waiting, hook_id)
        return Loop(f"hook {hook_id}", send_waiting, clock=self._clock, next_due=next_due)

    async def _send_waiting(self, hook_id: int) -> int:
        """Send some of what waits for a hook, in order; returns how much was accepted, 0 after a failure."""
        self._next_tries.pop(hook_id, None)
        async with self._pool.connection() as connection:
            work = await hooks.load_work(connection, hook_id, BATCH)
        if work is None or not (work.waiting or work.gone) or self._rests(work.hook):
            return 0
        now = self._clock()
        answers = [GivenAnswer(number, now, True, hooks.GONE) for number in work.gone]
        try:
            failure = await self._send_each(work, answers)
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(FINISH_WITHIN):
                    await self._note(work.hook, answers, None)
            raise
        await self._note(work.hook, answers, failure)
        return len(answers) if failure is None else 0

    def _rests(self, hook: Hook) -> bool:
        """Say whether it is too early; a clock that was set back makes nothing wait for longer."""
        now, at = self._clock(), hook.next_try_at
        if at is None or not now < at <= now + LONGEST_WAIT:
            return False
        self._next_tries[hook.id] = at
        return True

    async def _send_each(self, work: HookWork, answers: list[GivenAnswer]) -> HookAnswer | None:
        """Send until one fails, which is returned, or ``ROUND`` is over."""
        began = time.monotonic()
        for event in await self._topups.add(work.waiting):
            try:
                sent = message_of(work.hook, work.database, event)
                if sent is None:
                    answers.append(
                        GivenAnswer(event.id, self._clock(), True, "nothing to send for this event")
                    )
                    continue
                answer = await send(self._client, work.hook, sent, self._clock())
            except (Refused, ValueError) as error:  # rows that somebody changed by hand
                answer = HookAnswer(status=None, words=f"cannot be sent: {error}")
            answers.append(GivenAnswer(event.id, self._clock(), answer.is_accepted, answer.words))
            if not answer.is_accepted:
                return answer
            if time.monotonic() - began > ROUND:
                break
        return None

    async def _note(self, hook: Hook, answers: list[GivenAnswer], failure: HookAnswer | None) -> None:
        """Write down what was answered, and what follows from a failure."""
        if not answers:
            return
        now = self._clock()
        statements = hooks.note_statements(hook.id, answers)
        has_recovered = hook.failures > 0 and answers[0].is_accepted
        if failure is None:
            if has_recovered:
                statements.append(hooks.recovered_statement(hook.id))
                log.info("hook accepts again", extra=fields(hook=hook.id))
            async with self._pool.connection() as connection:
                await combine(connection, statements)
            return
        since = now if has_recovered or hook.failing_since is None else hook.failing_since
        failures = 1 if has_recovered else hook.failures + 1
        if failures == 1:
            log.warning("hook does not accept events: %s", failure.words, extra=fields(hook=hook.id))
        at = now + wait_after(failures, random.random(), failure.retry_after)  # noqa: S311 - spreads load
        self._next_tries[hook.id] = at
        statements.append(hooks.failed_statement(hook.id, since, failures, at))
        why = reason_to_give_up(since, now, failure.status, failure.words)
        async with self._pool.transaction() as connection:
            await combine(connection, statements)
            if why is not None and await hooks.switch_off(connection, hook.id, now, why):
                log.warning("hook switched off: %s", why, extra=fields(hook=hook.id))
                facts = {"hook": hook.id, "failing_since": rfc3339(since), "reason": why}
                told = Event(type="hook.off", user_id=None, data=facts, occurred_at=now)
                await combine(connection, [events.append_statement([told])])
