from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from riteraft_core._garbage import YOUNG, settle


@pytest.fixture
def _as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.usefixtures("_as_it_was")
def test_what_is_there_stays_and_the_new_is_looked_at_less_often() -> None:
    older = gc.get_threshold()[1:]
    settle()
    assert gc.get_freeze_count() > 1_000
    assert gc.get_threshold()[0] == YOUNG
    assert gc.get_threshold()[1:] == older
