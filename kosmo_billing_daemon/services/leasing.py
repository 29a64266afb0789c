"""Leases for strict gates: granted in one transaction under the users' locks, so that what is used and what
is leased never exceed a limit together.

A question that is repeated gets the lease that it got before. What is handed back shrinks first, so that one
request may hand back and ask.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID, uuid4

from kosmo_billing_daemon.contract.lease_payloads import LeaseAnswer, LeaseRefusal, LeaseRequest
from kosmo_billing_daemon.domain import leases as rules
from kosmo_billing_daemon.domain.leases import Lease, Quota
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Erased
from kosmo_billing_daemon.runtime.batcher import write_each
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import leases, usage
from kosmo_billing_daemon.store.leases import GrantedLease, LeasableQuota
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users

log = logging.getLogger(__name__)

Asked = tuple[str, LeaseRequest]
"""A reporter and what it asks."""


@record(kw_only=True)
class Leasing:
    """Answers gates that ask for leases."""

    pool: Pool
    clock: Clock

    async def answer(self, asked: Sequence[Asked]) -> list[LeaseAnswer | None]:
        """Commit the answers and return them. ``None`` answers one that could not be: its gate asks again.

        Raises ``Unavailable`` when nothing was committed.
        """
        results = await write_each(asked, self._answer)
        for place, ((reporter, request), result) in enumerate(zip(asked, results, strict=True)):
            if isinstance(result, Erased):
                about = LeaseAnswer(request_id=request.request_id, user_id=request.user_id, at=self.clock())
                results[place] = replace(about, reason=LeaseRefusal.NO_SUBSCRIPTION)
            elif isinstance(result, Exception):
                log.warning("lease request was not answered: %s", result, extra=fields(reporter=reporter))
        return [result if isinstance(result, LeaseAnswer) else None for result in results]

    async def _answer(self, asked: Sequence[Asked]) -> list[LeaseAnswer]:
        users = sorted({request.user_id for _, request in asked})

        async def work(connection: Connection) -> list[LeaseAnswer]:
            now = self.clock()
            await usage.lock_counters(connection, map(str, users))
            await _take_back(connection, asked)
            known = await leases.load_answered(connection, [(name, one.request_id) for name, one in asked])
            quotas = await leases.load_quotas(connection, users)
            copied = await _copied(connection, asked)
            granted: list[GrantedLease] = []
            answers: list[LeaseAnswer] = []
            for reporter, request in asked:
                key = reporter, request.request_id
                found: GrantedLease | LeaseRefusal | None = known.get(key)
                if request.request_id in copied:
                    found = LeaseRefusal.COPIED
                elif found is None:
                    found = self._grant(reporter, request, quotas)
                    if isinstance(found, GrantedLease):
                        known[key] = found
                        granted.append(found)
                about = LeaseAnswer(request_id=request.request_id, user_id=request.user_id, at=now)
                if isinstance(found, LeaseRefusal):
                    answers.append(replace(about, reason=found))
                else:
                    answers.append(
                        replace(
                            about,
                            lease_id=found.id,
                            subscription_id=found.subscription_id,
                            messages=found.lease.messages,
                            expires_at=found.expires_at,
                        )
                    )
            await leases.append(connection, granted)
            return answers

        return await self.pool.retrying(work, locking_users([UserId(user) for user in users]))

    def _grant(
        self, reporter: str, request: LeaseRequest, quotas: dict[UUID, LeasableQuota]
    ) -> GrantedLease | LeaseRefusal:
        """Grant a lease and note in ``quotas`` that its messages are taken."""
        now = self.clock()
        found = quotas.get(request.user_id)
        if found is not None and found.ends_at <= now:
            found = None
        number = rules.grant(None if found is None else found.quota, request.want)
        if isinstance(number, LeaseRefusal) or found is None:
            return number if isinstance(number, LeaseRefusal) else LeaseRefusal.NO_SUBSCRIPTION
        quota = Quota(found.quota.limit, found.quota.used, found.quota.outstanding + number)
        quotas[request.user_id] = replace(found, quota=quota)
        return GrantedLease(
            id=uuid4(),
            reporter=reporter,
            request_id=request.request_id,
            user_id=request.user_id,
            subscription_id=found.subscription_id,
            lease=Lease(number),
            granted_at=now,
            expires_at=found.ends_at,
        )


async def _copied(connection: Connection, asked: Sequence[Asked]) -> set[str]:
    """Return the requests of gates with a copy of another's file, and remember how the others were opened."""
    named = [(reporter, request) for reporter, request in asked if request.openings]
    copied: set[str] = set()
    if not named:
        return copied
    known = await leases.load_openings(connection, [reporter for reporter, _ in named])
    for reporter, request in named:
        before = known.get(reporter, ())
        if not rules.goes_on(before, request.openings):
            copied.add(request.request_id)
        elif request.openings[-1:] != before[-1:]:
            known[reporter] = request.openings
            await leases.save_openings(connection, reporter, request.openings)
    for reporter in {reporter for reporter, request in named if request.request_id in copied}:
        log.error("two gates use copies of one file: give each its own", extra=fields(reporter=reporter))
    return copied


async def _take_back(connection: Connection, asked: Sequence[Asked]) -> None:
    """Shrink what gates hand back; a lease of another gate or user is none of theirs."""
    kept = {
        held.lease_id: (reporter, request.user_id, held.messages)
        for reporter, request in asked
        for held in request.leases
    }
    shrunk = []
    for one in (await leases.lock(connection, sorted(kept))).values():
        reporter, user_id, messages = kept[one.id]
        if (one.reporter, one.user_id) == (reporter, user_id):
            lease = rules.handed_back(one.lease, messages)
            if lease != one.lease:
                shrunk.append(replace(one, lease=lease))
    await leases.save(connection, shrunk)
