"""A solution has one label for each step, and the first error is where a label says wrong."""

import pytest

from assay.data.steps.labelled_steps import LabelledSteps
from assay.records import Completion

SOLUTION = Completion(messages=({"role": "user", "content": "2 + 3 * 4?"},), steps=("3 * 4 = 12.\n", "2 + 12 = 15.\n", "So 15."))


def test_the_first_error_is_the_first_label_below_a_half() -> None:
    assert LabelledSteps(completion=SOLUTION, right=(1, 0, None)).first_error == 1
    assert LabelledSteps(completion=SOLUTION, right=(1, 0.6, None)).first_error is None


@pytest.mark.parametrize("right", [(1, 0), (1, 0, 1, 1), (1, 2, 0), (1, float("nan"), 0)])
def test_wrong_labels_are_refused(right: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="label"):
        LabelledSteps(completion=SOLUTION, right=right)


def test_rewordings_of_one_problem_are_one_problem() -> None:
    one, other = (
        LabelledSteps(completion=Completion(messages=text, steps=("So 14.",)), right=(1,), problem="2 + 3 * 4?")
        for text in ("What is 2 + 3 * 4?", "2 + 3 * 4 makes what?")
    )
    assert one.prompt_key == other.prompt_key == SOLUTION_KEY
    assert one.completion.messages[0].content == "What is 2 + 3 * 4?"  # what is scored is the wording


SOLUTION_KEY = LabelledSteps(completion=SOLUTION, right=(1, 0, None)).prompt_key
