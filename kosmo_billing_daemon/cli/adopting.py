"""``adopt``: move in from KosmoConnect v0.1, whose tables stand in the same database."""

import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from kosmo_billing_daemon.assembly.connections import database_of, read_catalogue
from kosmo_billing_daemon.cli.frame import AsJson, EnvFile, own_path, run
from kosmo_billing_daemon.cli.opened import by, load
from kosmo_billing_daemon.cli.progress import LongWork, long_work
from kosmo_billing_daemon.cli.rendering import console, heading, line, print_done, print_json
from kosmo_billing_daemon.domain.adoption.mapping import written
from kosmo_billing_daemon.domain.adoption.old_tables import FIELDS, ColumnKind, Part
from kosmo_billing_daemon.domain.adoption.reading import USERS
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.services.adoption import AdoptionPlan, MovingIn
from kosmo_billing_daemon.store.old_tables import quoted
from kosmo_billing_daemon.store.old_views import COMPAT, MOVED

app = typer.Typer(
    help="Move in from KosmoConnect v0.1: plan it, do it, undo it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_LONGEST_MAP = 1 << 20
_AGAIN = "nothing was changed"

_SEVERAL = (
    "a row counts if its status is active and its end is ahead; of several of a user the one that ends last"
    " is kept, with the messages that others to the same plan had left; what is left of what was paid for"
    " others becomes credit"
)

MapFile = Annotated[
    Path | None,
    typer.Option("--map", callback=own_path, help="Corrections of the guess, as TOML (- reads it here)."),
]


@app.command()
def plan(
    *,
    map_file: MapFile = None,
    write_map: Annotated[
        Path | None,
        typer.Option(callback=own_path, help="Write the map to this file, to be edited (- prints it)."),
    ] = None,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Show how the old tables would be read, and what cannot be; writes nothing to the database."""
    moving, document = _moving(env_file, map_file)
    with long_work(again=_AGAIN) as work:
        work.begin("reading rows")
        planned = run(moving.plan(document, _teller(work)))
    if write_map is not None:
        _write(write_map, written(planned.made))
        if str(write_map) == "-":
            return
    if as_json:
        print_json(_json(planned))
        return
    _show(console(), planned)


@app.command(name="run")
def run_(
    *,
    map_file: MapFile = None,
    leave_unreadable: Annotated[
        bool, typer.Option("--leave-unreadable", help="Move in without the rows that cannot be read.")
    ] = False,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Move in, in one transaction: all of it, or nothing. Stop v0.1 first, and make a backup."""
    moving, document = _moving(env_file, map_file)
    with long_work(again=_AGAIN) as work:
        work.begin("moving rows")
        done = run(
            moving.run(
                document,
                leave_unreadable=leave_unreadable,
                progress=_teller(work),
            )
        )
    path = ", ".join(dict.fromkeys([COMPAT, *(_sql_name(schema) for schema, _ in done.moved), "public"]))
    steps = [
        f"ALTER ROLE {role} SET search_path = {path}"
        for role in done.roles or ['"the role of the old gateway"']
    ]
    if as_json:
        print_json({"counts": done.counts, "moved": _names(done.moved), "next": steps})
        return
    out = console()
    counts = done.counts
    line(out, f"moved in: {counts.get('users', 0)} users, {counts.get('active', 0)} active subscriptions,")
    line(
        out, f"  {counts.get('invoices', 0)} invoices, of which {counts.get('open invoices', 0)} are followed"
    )
    for schema, name in done.moved:
        line(out, f"  {schema}.{name} is now {MOVED}.{name}")
    line(out, "next: start the daemon, and let the old gateway read and count through the views:")
    for step in steps:
        line(out, f"    {step};")
    line(out, "  it takes effect when the gateway connects again; to go back, before anything new happens:")
    line(out, "    kosmo-billing adopt undo")


@app.command()
def undo(as_json: AsJson = False, env_file: EnvFile = None) -> None:
    """Put the old tables back as they were; refused once anything new has happened."""
    moving, _ = _moving(env_file, None)
    moved = run(moving.undo())
    names = _names(moved)
    print_done({"moved": names}, *(f"{name} is back; our tables are gone" for name in names), as_json=as_json)


def _sql_name(name: str) -> str:
    """Write a name as SQL, in quotes only where it needs them."""
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else quoted(name)


def _teller(work: LongWork) -> Callable[[int, int], None]:
    """Return what shows how many rows are read."""
    begun = False

    def tell(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            work.begin("reading rows", total)
            begun = True
        work.done(done)

    return tell


def _moving(env_file: Path | None, map_file: Path | None) -> tuple[MovingIn, dict[str, Any]]:
    document = {} if map_file is None else _read(map_file)
    loaded = load(env_file)
    catalogue = read_catalogue(loaded.plans_file)
    who = by("moved in").who
    return MovingIn(database=database_of(loaded), catalogue=catalogue, clock=utc_now, who=who), document


def _read(path: Path) -> dict[str, Any]:
    try:
        if str(path) == "-":
            return tomllib.loads(sys.stdin.buffer.read(_LONGEST_MAP).decode())
        with path.open("rb") as file:
            return tomllib.loads(file.read(_LONGEST_MAP).decode())
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Invalid(f"{path} is no TOML: {error}") from error


def _write(path: Path, text: str) -> None:
    if str(path) == "-":
        typer.echo(text, nl=False)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}") from error


def _names(moved: Any) -> list[str]:
    return [f"{schema}.{name}" for schema, name in moved]


def _rules(planned: AdoptionPlan) -> list[str]:
    """Say what is decided where the old rows leave it open."""
    made = planned.made
    naive = any(
        of.kind(name) in (ColumnKind.NAIVE, ColumnKind.DATE)
        for of in made.parts.values()
        for name in of.columns
    )
    end = "cannot be read" if made.without_end is None else f"end at {made.without_end.isoformat()}"
    rules = [
        _SEVERAL,
        f"rows without an end {end}",
        "a row is worth what its settled invoices paid, or nothing if none is known",
    ]
    if naive:
        rules.append(f"times without a zone are read as {made.timezone}")
    if made.subscriptions.kind("user_id") is not ColumnKind.UUID:
        rules.append(f"ids of users that are no UUIDs become UUIDv5 of the id, in namespace {USERS}")
    if "messages_used" not in made.subscriptions.columns:
        rules.append("no column says how many messages were used: all are counted from 0")
    if "messages_limit" not in made.subscriptions.columns:
        rules.append("no column says the limit: it is that of the plan")
    if Part.INVOICES not in made.parts:
        rules.append("there is no table of invoices: none is followed")
    return rules


def _show(out: Console, planned: AdoptionPlan) -> None:
    survey, made = planned.survey, planned.made
    for part, of in made.parts.items():
        heading(out, f"{part}: {of.table.shown}")
        for name in FIELDS[part]:
            column = of.column(name)
            line(out, f"  {name:<18} {'-' if column is None else f'{column.name} ({column.type})'}")
    _show_list(out, "why", planned.why)
    _show_list(out, "rules", _rules(planned))
    _show_list(out, "rows", [f"{what}: {count}" for what, count in sorted(survey.counts.items())])
    if planned.unknown or survey.unreadable:
        _show_list(out, "what cannot be read", planned.unknown)
        for row in survey.unreadable:
            over = "" if row.matters else " (it is over, and stays as it was)"
            line(out, f"  {row.table}: {row.row}: {row.reason}{over}")
        more = survey.counts["unreadable"] - len(survey.unreadable) if survey.unreadable else 0
        if more:
            line(out, f"  and {more} more")
    if survey.notes:
        _show_list(out, "decisions about users", survey.notes)
    if planned.dependents:
        _show_list(out, f"what goes on using the old tables, in schema {MOVED}", planned.dependents)
    _show_end(out, planned)


def _show_list(out: Console, title: str, told: Iterable[str]) -> None:
    heading(out, title)
    for text in told:
        line(out, f"  {text}")


def _show_end(out: Console, planned: AdoptionPlan) -> None:
    out.print()
    if planned.lacking:
        line(out, "before it can be run, a superuser must run:")
        for lack in planned.lacking:
            line(out, f"    {lack.statement};  -- {lack.fact}")
    if planned.survey.counts.get("unreadable that matter"):
        line(out, "rows that matter cannot be read; write the map, correct it, and plan again:")
        line(out, "    kosmo-billing adopt plan --write-map - > adopt.toml")
        line(out, "    kosmo-billing adopt plan --map - < adopt.toml")
    elif not planned.lacking:
        line(out, "nothing was written; when v0.1 is stopped and backed up:")
        line(out, "    kosmo-billing adopt run")


def _json(planned: AdoptionPlan) -> dict[str, Any]:
    survey = planned.survey
    return {
        "map": {
            part: {"table": of.table.shown, **{name: of.columns.get(name) for name in FIELDS[part]}}
            for part, of in planned.made.parts.items()
        },
        "timezone": planned.made.timezone,
        "why": planned.why,
        "rules": _rules(planned),
        "counts": survey.counts,
        "unknown": planned.unknown,
        "unreadable": survey.unreadable,
        "notes": survey.notes,
        "dependents": planned.dependents,
        "lacking": planned.lacking,
        "moved": _names(planned.moved),
        "ready": not planned.lacking and not survey.counts.get("unreadable that matter"),
    }
