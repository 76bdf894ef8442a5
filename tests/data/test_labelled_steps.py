"""A solution has one label for each step, and the first error is where a label says wrong."""

import pytest

from assay.data.labelled_steps import LabelledSteps
from assay.records import Completion

SOLUTION = Completion(messages=({"role": "user", "content": "2 + 3 * 4?"},), steps=("3 * 4 = 12.\n", "2 + 12 = 15.\n", "So 15."))


def test_the_first_error_is_the_first_label_below_a_half() -> None:
    assert LabelledSteps(completion=SOLUTION, right=(1, 0, None)).first_error == 1
    assert LabelledSteps(completion=SOLUTION, right=(1, 0.6, None)).first_error is None


@pytest.mark.parametrize("right", [(1, 0), (1, 0, 1, 1), (1, 2, 0), (1, float("nan"), 0)])
def test_wrong_labels_are_refused(right: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="label"):
        LabelledSteps(completion=SOLUTION, right=right)
