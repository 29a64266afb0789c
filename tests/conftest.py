"""Fixtures every test may ask for: PostgreSQL databases of its own, and a place for services of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kosmo_billing_daemon.demo.children import temporary_directory
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from tests.support.postgres import PostgresSession, postgres_session

TEMPLATE = "kosmo_template"


@pytest.fixture
def service_directory() -> Iterator[Path]:
    """Where a test's own server or broker keeps its files.

    Not tmp_path: pytest closes its parent to everyone else, and as root the services run as `nobody`.
    """
    with temporary_directory("kosmo-test-") as directory:
        yield directory


@pytest.fixture(scope="session")
def _postgres_session() -> Iterator[PostgresSession]:
    with postgres_session() as session:
        yield session


@pytest.fixture(scope="session")
def postgres(_postgres_session: PostgresSession) -> EmbeddedPostgres:
    """The session's server; a test that kills or freezes one starts its own."""
    return _postgres_session.server


@pytest.fixture(scope="session")
def template_database(_postgres_session: PostgresSession) -> str:
    """The name of the migrated database that `database_url` copies."""
    from kosmo_billing_daemon.store.migrations import migrate  # noqa: PLC0415  tests without SQL need no migrations

    return _postgres_session.create_template(TEMPLATE, migrate)


@pytest.fixture
def database_url(_postgres_session: PostgresSession, template_database: str) -> Iterator[str]:
    """The URL of a migrated database of this test's own."""
    with _postgres_session.database(template_database) as url:
        yield url


@pytest.fixture
def empty_database_url(_postgres_session: PostgresSession) -> Iterator[str]:
    """The URL of a database of this test's own with nothing in it."""
    with _postgres_session.database() as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(_postgres_session: PostgresSession, template_database: str) -> Iterator[str]:
    """The URL of a migrated database that the tests of one module share."""
    with _postgres_session.database(template_database) as url:
        yield url
