"""No await on the paths goes unnoticed: it is a point of the table, or stands elsewhere with its reason."""

import pytest

from tests.crash.points import OFF_THE_PATHS, PATHS, SHARED, load_table, site_of, sites, waiting_modules
from tests.crash.unpassed import SOMETIMES, UNPASSED

EVERY_SITE = {site for module in PATHS | SHARED for site in sites(module)}
BY_ANSWER = {"web: answering the invoice", "web: answering the webhook"}


def _excused(site: str) -> bool:
    return site.startswith((*UNPASSED, *SOMETIMES))


def test_every_module_that_awaits_is_on_the_paths_or_off_them_with_a_reason() -> None:
    known = PATHS | SHARED
    off = {
        module
        for module in waiting_modules() - known
        if any(module == name or module.startswith(f"{name}.") for name in OFF_THE_PATHS)
    }
    assert waiting_modules() - known - off == set(), "put these into a table of points.py"


def test_every_await_is_a_point_or_excused() -> None:
    """Seen to fail with one more ``await`` in ``Settlement.run_once``."""
    passed = {site_of(point) for point in load_table()}
    unknown = {site for site in EVERY_SITE - passed if not _excused(site)}
    assert not unknown, "no path passes these; extend paths.py and record, or say in unpassed.py why not"


def test_every_point_of_the_table_is_still_in_the_source() -> None:
    vanished = {point for point in load_table() if site_of(point) not in EVERY_SITE | BY_ANSWER}
    assert not vanished, "record the table anew, see points.py"


@pytest.mark.parametrize("beginning", [*UNPASSED, *SOMETIMES])
def test_an_excuse_is_needed(beginning: str) -> None:
    called = site_of(beginning)
    assert any(site.startswith(called) for site in EVERY_SITE), "nothing is called so any more"
    passed = {
        point for point in load_table() if point.startswith(beginning) or site_of(point).startswith(beginning)
    }
    assert not passed, "this is passed, so it can be crashed at"
