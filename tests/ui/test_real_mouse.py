"""The window on a real display, driven by a real mouse."""

from __future__ import annotations

import pytest

from tests.ui.on_screen import run_scenario


@pytest.mark.timeout(300)
def test_a_model_is_dragged_onto_the_board_deployed_and_answers() -> None:
    run_scenario("scenario_place_by_hand", 240)
