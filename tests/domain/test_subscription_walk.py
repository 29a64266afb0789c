"""A random walk of one user beside a model that computes everything anew from the list of facts."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kosmo_billing_daemon.domain.history import advance, recount, reinstate, revoke
from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import Status, Subscription, current
from tests.domain.builders import DAY, HOUR, OTHER_PLANS, SECOND, START, buy, check_consistency, sid, use
from tests.domain.lot_model import ModelLot, bought, lasts, left, limit, seconds, taken


@dataclass
class Fact:
    """One purchase: what, when, how much of it was used, and its fate."""

    number: int
    plan: Plan
    at: datetime
    used: int = 0
    revoked: bool = False


@dataclass
class Model:
    """R2, R5 and R8 by recomputation: slow, short, and written from the rules alone."""

    facts: list[Fact] = field(default_factory=list)
    dead: dict[int, datetime] = field(default_factory=dict)

    def terms(self) -> dict[int, tuple[datetime, int | None]]:
        """End and limit of every purchase that stands."""
        return {
            fact.number: (fact.at + timedelta(seconds=float(lasts(lots))), limit(lots))
            for fact, lots in self.stacks()
        }

    def stacks(self) -> list[tuple[Fact, list[ModelLot]]]:
        found: list[tuple[Fact, list[ModelLot]]] = []
        for fact in (fact for fact in self.facts if not fact.revoked):
            found.append((fact, [*self.rest(found[-1:], fact.plan, fact.at), bought(fact.plan)]))
        return found

    @staticmethod
    def rest(last: list[tuple[Fact, list[ModelLot]]], plan: Plan, at: datetime) -> list[ModelLot]:
        for old, lots in last:
            elapsed = seconds(at - old.at)
            if elapsed < lasts(lots):
                return taken(left(lots, elapsed, old.used), old.plan, plan)[0]
        return []

    def refuses(self, plan: Plan, at: datetime) -> bool:
        """All prices are in one currency here: what is released was beyond the cap."""
        for old, lots in self.stacks()[-1:]:
            elapsed = seconds(at - old.at)
            return elapsed < lasts(lots) and bool(taken(left(lots, elapsed, old.used), old.plan, plan)[1])
        return False

    def alive(self, now: datetime, *, holding: bool) -> Fact | None:
        """The purchase that grants rights now; who lost them gets them back only by a later end."""
        standing = [fact for fact in self.facts if not fact.revoked]
        if not standing:
            return None
        last = standing[-1]
        end, _ = self.terms()[last.number]
        if now < end:
            return last
        if holding and now < end + DAY and self.dead.get(last.number, START - DAY) < end:
            return last
        self.dead.setdefault(last.number, now)
        return None


class Walk(RuleBasedStateMachine):
    """Everything that can happen to one user."""

    def __init__(self) -> None:
        super().__init__()
        self.history: tuple[Subscription, ...] = ()
        self.now = START
        self.holding = False
        self.model = Model()

    def any_revoked(self) -> bool:
        return any(fact.revoked for fact in self.model.facts)

    @rule(plan=st.sampled_from(OTHER_PLANS))
    def buys(self, plan: Plan) -> None:
        number = len(self.model.facts) + 1
        outcome = buy(self.history, number, plan, self.now, holding=self.holding)
        assert (outcome.refusal is not None) == self.model.refuses(plan, self.now)
        self.history = outcome.history
        if outcome.refusal is None:
            self.model.facts.append(Fact(number, plan, self.now))

    @rule(
        wait=st.one_of(st.sampled_from([SECOND, HOUR, DAY, 30 * DAY]), st.timedeltas(timedelta(0), 35 * DAY))
    )
    def waits(self, wait: timedelta) -> None:
        self.now += wait
        self.history = advance(self.history, self.now, holding=self.holding).history

    @rule(count=st.integers(1, 80))
    def writes(self, count: int) -> None:
        row = current(self.history)
        if row is not None:
            self.history = use(self.history, row.id.int, count)
            self.model.facts[row.id.int - 1].used += count

    @precondition(lambda self: self.model.facts)
    @rule(chosen=st.integers(0, 50), count=st.integers(1, 80))
    def is_reported_late(self, chosen: int, count: int) -> None:
        fact = self.model.facts[chosen % len(self.model.facts)]
        if not fact.revoked:
            fact.used += count
            self.history = use(self.history, fact.number, count)
            self.history = recount(self.history, self.now, holding=self.holding).history

    @precondition(lambda self: not self.any_revoked())
    @rule(holding=st.booleans())
    def confirms(self, holding: bool) -> None:
        self.holding = holding
        self.history = advance(self.history, self.now, holding=holding).history

    @precondition(lambda self: self.model.facts and not self.holding)
    @rule(chosen=st.integers(0, 50))
    def is_marked_invalid(self, chosen: int) -> None:
        fact = self.model.facts[chosen % len(self.model.facts)]
        fact.revoked = True
        self.history = revoke(self.history, sid(fact.number), self.now, reason="invalid").history

    @precondition(lambda self: self.any_revoked())
    @rule(chosen=st.integers(0, 50))
    def is_marked_settled(self, chosen: int) -> None:
        gone = [fact for fact in self.model.facts if fact.revoked]
        fact = gone[chosen % len(gone)]
        fact.revoked = False
        self.history = reinstate(self.history, sid(fact.number), self.now, reason="settled").history

    @invariant()
    def rows_agree_with_time(self) -> None:
        check_consistency(self.history, self.now)

    @invariant()
    def rows_are_those_of_the_model(self) -> None:
        alive = self.model.alive(self.now, holding=self.holding)
        row = current(self.history)
        assert (row and row.id) == (alive and sid(alive.number))
        terms = self.model.terms()
        standing = [r for r in self.history if r.status is not Status.REVOKED]
        assert [r.id.int for r in standing] == list(terms)
        for r in standing:
            until, most = terms[r.id.int]
            assert abs(r.valid_until - until) < SECOND / 100
            if most is None or r.messages_limit is None:
                assert r.messages_limit == most
            elif r.messages_limit != most:
                # Rounded down by less than one; or what was used already is not taken back.
                assert r.messages_limit == most - 1 or most < r.messages_limit <= r.messages_used


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, print_blob=True, database=None
)
