"""What operators do with hooks: add, try, repeat and remove them, each change under the operator's name."""

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.contract.document import event_types
from kosmo_billing_daemon.contract.encoding import dumps
from kosmo_billing_daemon.domain.hook_texts import TEST, parse_texts
from kosmo_billing_daemon.errors import Conflict, Invalid, NotFound
from kosmo_billing_daemon.hooks.addresses import require_usable
from kosmo_billing_daemon.hooks.client import HookAnswer, HookClient
from kosmo_billing_daemon.hooks.signature import new_secret
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.hooks import message_of, send
from kosmo_billing_daemon.store import audit, hooks
from kosmo_billing_daemon.store.events import StoredEvent
from kosmo_billing_daemon.store.hooks import GivenAnswer, Hook, ListedHook
from kosmo_billing_daemon.store.postgres import Connection, Pool, notify


@record(kw_only=True)
class HookActions:
    """Changes hooks; the leader is woken by each change."""

    pool: Pool
    clock: Clock

    async def add(
        self, url: str, patterns: Sequence[str], *, texts: str | None, allow_private: bool, by: OperatorAction
    ) -> Hook:
        """Add a hook with a secret of its own; raises ``Invalid`` and ``Conflict``."""
        _require_addable(url, patterns, texts=texts, allow_private=allow_private)
        async with self.pool.transaction() as connection:
            now = self.clock()
            hook_id = await hooks.add(
                connection,
                url=url,
                events=patterns,
                secret=new_secret(),
                texts=texts,
                allow_private=allow_private,
                now=now,
            )
            if hook_id is None:
                raise Conflict("there is a hook for this URL; remove it first", code="hook_exists")
            await self._note(connection, "hook.add", hook_id, by, now)
            return await _found(connection, hook_id)

    async def load_all(self) -> list[ListedHook]:
        """Return every hook with its last answer and what waits for it."""
        return await self.pool.read(hooks.load_all)

    async def load(self, hook_id: int) -> "HookWithAnswers":
        """Return one hook with its last answers; raises ``NotFound``."""
        async with self.pool.connection() as connection:
            listed = next((one for one in await hooks.load_all(connection) if one.hook.id == hook_id), None)
            if listed is None:
                raise NotFound(f"there is no hook {hook_id}")
            return HookWithAnswers(listed, await hooks.load_answers(connection, hook_id, hooks.ANSWERS_KEPT))

    async def preview_add(
        self, url: str, patterns: Sequence[str], *, texts: str | None, allow_private: bool
    ) -> tuple[str, ...]:
        """Return the events that ``add`` would send; raises what it would raise."""
        _require_addable(url, patterns, texts=texts, allow_private=allow_private)
        if any(one.hook.url == url for one in await self.load_all()):
            raise Conflict("there is a hook for this URL; remove it first", code="hook_exists")
        return tuple(name for name in event_types() if any(_matches(pattern, name) for pattern in patterns))

    async def preview_replay(self, hook_id: int, since: datetime | None) -> tuple[datetime, int]:
        """Return since when ``replay`` would send again, and how many events; raises what it would raise."""
        async with self.pool.connection() as connection:
            since = _since(await _found(connection, hook_id), since)
            return since, await hooks.count_since(connection, hook_id, since)

    async def test(self, hook_id: int) -> HookAnswer:
        """Send an event of no meaning from this process, and return the answer."""
        hook = await self.pool.read(_found, hook_id)
        now = self.clock()
        data = dumps({"hook": hook_id, "text": "This is a test."}).decode()
        sent = message_of(hook, uuid4(), StoredEvent(0, TEST, None, now, data))
        assert sent is not None  # noqa: S101 - there is a text for tests
        async with HookClient() as client:
            return await send(client, hook, sent, now)

    async def replay(self, hook_id: int, since: datetime | None, by: OperatorAction) -> int:
        """Switch a hook on and queue what happened since then; by default since it was switched off.

        Returns how many events that adds to those that wait.
        """
        async with self.pool.transaction() as connection:
            since = _since(await _found(connection, hook_id), since)
            added = await hooks.replay(connection, hook_id, since)
            await hooks.switch_on(connection, hook_id)
            await self._note(connection, "hook.replay", hook_id, by, self.clock())
            return added

    async def remove(self, hook_id: int, by: OperatorAction) -> None:
        """Remove a hook and all that waits for it."""
        async with self.pool.transaction() as connection:
            if not await hooks.remove(connection, hook_id):
                raise NotFound(f"there is no hook {hook_id}")
            await self._note(connection, "hook.remove", hook_id, by, self.clock())

    async def _note(
        self, connection: Connection, action: str, hook_id: int, by: OperatorAction, now: datetime
    ) -> None:
        await audit.append(connection, by.entry(action, None, f"hook {hook_id}", now))
        await notify(connection, "hooks")


@record
class HookWithAnswers:
    """One hook, and what its endpoint said last, newest first."""

    listed: ListedHook
    answers: list[GivenAnswer]


def _since(hook: Hook, since: datetime | None) -> datetime:
    since = since or hook.off_since
    if since is None:
        raise Conflict("this hook is on: since when are events to be sent again? (--since)", code="on")
    return since


def _require_addable(url: str, patterns: Sequence[str], *, texts: str | None, allow_private: bool) -> None:
    require_usable(url, allow_private=allow_private)
    _require_known(patterns)
    if texts is not None:
        for event_type in parse_texts(texts).texts:
            _require_wanted(event_type, patterns)


async def _found(connection: Connection, hook_id: int) -> Hook:
    hook = await hooks.load(connection, hook_id)
    if hook is None:
        raise NotFound(f"there is no hook {hook_id}")
    return hook


def _require_known(patterns: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_matches(pattern, event_type) for event_type in event_types()):
            raise Invalid(f"there is no event {pattern!r}; there are {', '.join(event_types())}")


def _require_wanted(event_type: str, patterns: Sequence[str]) -> None:
    if event_type not in event_types():
        raise Invalid(f"[texts] names {event_type!r}; there are {', '.join(event_types())}")
    if not any(_matches(pattern, event_type) for pattern in patterns):
        raise Invalid(f"[texts] has a text for {event_type}, which --events leaves out")


def _matches(pattern: str, event_type: str) -> bool:
    return pattern == event_type or (pattern.endswith("*") and event_type.startswith(pattern[:-1]))
