"""The lease rules as a whole: whatever happens in whatever order, nobody is let through above the limit."""

from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kosmo_billing_daemon.contract.lease_payloads import LeaseRefusal
from kosmo_billing_daemon.domain import leases
from kosmo_billing_daemon.domain.leases import Lease, Quota


@dataclass
class Held:
    """A lease as its gate knows it: what it may let through, what it did, and what of that it has told."""

    subscription: int
    messages: int
    passed: int = 0
    told: int = 0


@dataclass
class World:
    """One user, the daemon's numbers by subscription and lease, and three gates."""

    current: int = 0  # the subscription
    used: dict[int, int] = field(default_factory=dict)
    bought: dict[int, int] = field(default_factory=dict)
    daemon: dict[int, tuple[int, Lease]] = field(default_factory=dict)
    gates: list[dict[int, Held]] = field(default_factory=lambda: [{}, {}, {}])
    passed: dict[int, int] = field(default_factory=dict)


class Leasing(RuleBasedStateMachine):
    """Messages between gates and daemon may be lost, repeated and late; a gate may be cut off or vanish."""

    @initialize(limit=some.integers(0, 60))
    def start(self, limit: int) -> None:
        self.world = World()
        self.vanished: set[int] = set()
        self.number = 0
        self.subscribe(limit)

    def subscribe(self, limit: int) -> None:
        self.world.current += 1
        self.world.bought[self.world.current] = limit
        self.world.used[self.world.current] = self.world.passed[self.world.current] = 0

    def quota(self, subscription: int) -> Quota:
        mine = [lease for of, lease in self.world.daemon.values() if of == subscription]
        outstanding = sum(lease.outstanding for lease in mine)
        return Quota(self.limit(subscription), self.world.used[subscription], outstanding)

    def limit(self, subscription: int) -> int:
        """What was bought with it, and what the one before has neither used nor leased."""
        carried = self.quota(subscription - 1).free if subscription > 1 else 0
        return self.world.bought[subscription] + carried

    @rule(gate=some.integers(0, 2), want=some.integers(0, 40), arrives=some.booleans())
    def ask(self, gate: int, want: int, arrives: bool) -> None:
        got = leases.grant(self.quota(self.world.current), want)
        if isinstance(got, LeaseRefusal):
            assert got is not LeaseRefusal.QUOTA_EXHAUSTED or not self.quota(self.world.current).free
            return
        assert 1 <= got <= want
        self.number += 1
        self.world.daemon[self.number] = self.world.current, Lease(got)
        held = Held(self.world.current, got)
        if not arrives:  # the answer is lost; the gate asks again by the same id when it comes back
            held = Held(self.world.current, 0)
        self.world.gates[gate][self.number] = held

    @rule(gate=some.integers(0, 2))
    def repeat_questions(self, gate: int) -> None:
        if gate in self.vanished:
            return
        for number, held in self.world.gates[gate].items():
            of, lease = self.world.daemon[number]
            if not held.messages and not held.passed:
                held.messages = lease.messages
            assert of == held.subscription

    @rule(gate=some.integers(0, 2), data=some.data(), count=some.integers(1, 5))
    def let_through(self, gate: int, data: some.DataObject, count: int) -> None:
        """Also of an old subscription: a gate that is cut off does not know better."""
        able = [
            number for number, held in self.world.gates[gate].items() if held.messages - held.passed >= count
        ]
        if not able or gate in self.vanished:
            return
        held = self.world.gates[gate][data.draw(some.sampled_from(able))]
        held.passed += count
        self.world.passed[held.subscription] += count

    @rule(gate=some.integers(0, 2), times=some.integers(1, 3))
    def report(self, gate: int, times: int) -> None:
        """Each message counts once, however often it is reported."""
        if gate in self.vanished:
            return
        for _ in range(times):
            for number, held in self.world.gates[gate].items():
                of, lease = self.world.daemon[number]
                self.world.used[of] += held.passed - held.told
                self.world.daemon[number] = of, replace(lease, used=lease.used + held.passed - held.told)
                held.told = held.passed

    @rule(gate=some.integers(0, 2), arrives=some.booleans())
    def hand_back(self, gate: int, arrives: bool) -> None:
        """A gate stops using first; the message may come late, be repeated, or be overtaken by reports."""
        if gate in self.vanished:
            return
        for number, held in self.world.gates[gate].items():
            if held.messages or held.passed:
                held.messages = held.passed
                if arrives:
                    of, lease = self.world.daemon[number]
                    once = leases.handed_back(lease, held.messages)
                    assert leases.handed_back(once, held.messages) == once
                    self.world.daemon[number] = of, once

    @rule(gate=some.integers(0, 2))
    def vanish(self, gate: int) -> None:
        self.vanished.add(gate)

    @rule(gate=some.integers(0, 2))
    def return_(self, gate: int) -> None:
        self.vanished.discard(gate)

    @rule(limit=some.integers(0, 60))
    def renew(self, limit: int) -> None:
        self.subscribe(limit)

    @rule(more=some.integers(1, 30))
    def top_up(self, more: int) -> None:
        self.world.bought[self.world.current] += more

    @invariant()
    def what_is_used_and_leased_is_within_the_limit(self) -> None:
        if not hasattr(self, "world"):
            return
        for subscription in self.world.bought:
            quota = self.quota(subscription)
            assert quota.used + quota.outstanding <= self.limit(subscription)
            assert self.world.passed[subscription] <= self.limit(subscription), "also what nobody told us yet"
        assert sum(self.world.passed.values()) <= sum(self.world.bought.values()), "over renewals too"

    def teardown(self) -> None:
        """In the end everything returns: gates come back or are freed, and only what passed is used."""
        if not hasattr(self, "world"):
            return
        for gate in range(3):
            if gate in self.vanished:
                continue
            self.repeat_questions(gate)
            self.hand_back(gate, arrives=True)
            self.report(gate, times=1)
        for gate in self.vanished:
            for number, held in self.world.gates[gate].items():
                of, lease = self.world.daemon[number]
                self.world.daemon[number] = of, leases.freed(lease)
                held.messages = held.passed
        for subscription in self.world.bought:
            assert self.quota(subscription).outstanding == 0
        if not self.vanished:
            assert self.world.used == self.world.passed


TestLeasing = Leasing.TestCase
TestLeasing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_request_gets_a_share_and_near_the_end_one_message() -> None:
    assert leases.grant(Quota(500, 0, 0), 64) == 64
    assert leases.grant(Quota(500, 400, 0), 64) == 25
    assert leases.grant(Quota(500, 497, 0), 64) == 1
    assert leases.grant(Quota(500, 400, 100), 64) is LeaseRefusal.LEASED_ELSEWHERE
    assert leases.grant(Quota(500, 500, 0), 64) is LeaseRefusal.QUOTA_EXHAUSTED
    assert leases.grant(Quota(500, 600, 20), 64) is LeaseRefusal.QUOTA_EXHAUSTED
    assert leases.grant(Quota(None, 600, 0), 64) is LeaseRefusal.UNLIMITED
    assert leases.grant(None, 64) is LeaseRefusal.NO_SUBSCRIPTION
    assert leases.grant(Quota(9000, 0, 0), 9000) == leases.MOST_LEASED


def test_more_than_a_lease_had_is_counted_and_leaves_nothing_outstanding() -> None:
    over = Lease(5, used=7)
    assert (over.used, over.outstanding) == (7, 0)
    assert leases.handed_back(over, 0).outstanding == 0


def test_a_file_goes_on_from_its_last_opening_and_a_copy_does_not() -> None:
    assert leases.goes_on((), ("a", "b"))
    assert leases.goes_on(("a",), ("a", "b", "c")), "two starts without an answer"
    assert leases.goes_on(("a", "b"), ("b",)), "the same opening"
    assert leases.goes_on(("a", "b"), ("new",)), "a file that was lost"
    assert not leases.goes_on(("a", "b"), ("a", "c")), "a copy made before b"
    assert not leases.goes_on(("a", "b"), ("a",)), "the original, which was not started anew"
