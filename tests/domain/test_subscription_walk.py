"""A random walk of one user beside a model that computes everything anew from the list of facts."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kosmo_billing_daemon.domain.plans import Plan
from kosmo_billing_daemon.domain.subscriptions import (
    Status,
    Subscription,
    advance,
    current,
    reinstate,
    revoke,
)
from tests.domain.builders import DAY, HOUR, OTHER_PLANS, SECOND, START, buy, check_consistency, sid, use

MICROSECOND = timedelta(microseconds=1)


@dataclass
class Fact:
    """One purchase: what, when, what every earlier purchase had used by then; and its fate."""

    number: int
    plan: Plan
    at: datetime
    used_before: dict[int, int]
    used: int = 0
    revoked: bool = False


@dataclass
class Model:
    """R2, R5 and R8 by recomputation: slow, short, and written from the rules alone."""

    facts: list[Fact] = field(default_factory=list)
    dead: dict[int, datetime] = field(default_factory=dict)

    def terms(self) -> dict[int, tuple[datetime, int | None]]:
        """End and limit of every purchase that stands."""
        found: dict[int, tuple[datetime, int | None]] = {}
        previous: Fact | None = None
        for fact in (fact for fact in self.facts if not fact.revoked):
            time, messages = Fraction(0), 0
            if previous is not None:
                end, limit = found[previous.number]
                left = None if limit is None else max(0, limit - fact.used_before[previous.number])
                time, messages = self._rest(previous.plan, fact.plan, end - fact.at, left)
            whole = -(-time // 1) * MICROSECOND
            found[fact.number] = (
                fact.at + fact.plan.period + whole,
                None if fact.plan.quota is None else fact.plan.quota + messages,
            )
            previous = fact
        return found

    @staticmethod
    def _rest(old: Plan, new: Plan, time_left: timedelta, messages_left: int | None) -> tuple[Fraction, int]:
        if time_left <= timedelta(0):
            return Fraction(0), 0
        if old.plan_type == new.plan_type and (old.quota is None) == (new.quota is None):
            return Fraction(time_left // MICROSECOND), messages_left or 0
        share = Fraction(time_left // MICROSECOND, old.period // MICROSECOND)
        if messages_left is not None and old.quota is not None:
            share = min(share, Fraction(messages_left, old.quota))
        extra = share * Fraction(old.price.amount) / Fraction(new.price.amount)
        return extra * (new.period // MICROSECOND), 0 if new.quota is None else extra * new.quota // 1

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
        before = {fact.number: fact.used for fact in self.model.facts}
        self.model.facts.append(Fact(number, plan, self.now, before))
        self.history = buy(self.history, number, plan, self.now, holding=self.holding).history

    @rule(
        wait=st.one_of(st.sampled_from([SECOND, HOUR, DAY, 30 * DAY]), st.timedeltas(timedelta(0), 35 * DAY))
    )
    def waits(self, wait: timedelta) -> None:
        self.now += wait
        self.history = advance(self.history, self.now, holding=self.holding).history

    @rule(count=st.integers(1, 80))
    def writes(self, count: int) -> None:
        """Use counts on the present row, not on one that came back by a revocation: whether that shrinks a
        reinstated successor is told by examples, since only the last successor's reading is kept.
        """
        row = current(self.history)
        if row is not None and not any(f.revoked and f.number > row.id.int for f in self.model.facts):
            self.history = use(self.history, row.id.int, count)
            self.model.facts[row.id.int - 1].used += count

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
        standing = {
            r.id.int: (r.valid_until, r.messages_limit)
            for r in self.history
            if r.status is not Status.REVOKED
        }
        assert standing == self.model.terms()


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, print_blob=True, database=None
)
