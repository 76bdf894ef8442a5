"""What is said of margins that are missing, or that cannot be logits."""

from __future__ import annotations

import numpy as np
import pytest

from assay.training.rows.margins import check_margins


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_without_any_margin_it_is_refused():
    with pytest.raises(ValueError, match=r"none of the 3 training pairs has a margin.*leave --use-margin out"):
        check_margins(np.full(3, np.nan))


def test_missing_and_large_ones_are_counted(capsys):
    check_margins(np.array([np.nan, 0.5, 3.0, 60.0, 20.0]))
    told = said(capsys)
    assert "1 of 5 training pairs have none, and count as 0" in told
    assert "1 of 4 lie above 20, the largest is 60" in told
    assert "(it is 11.5)" in told


def test_logits_are_no_reason_to_speak(capsys):
    check_margins(np.array([0.0, 0.5, 19.9]))
    assert said(capsys) == ""
