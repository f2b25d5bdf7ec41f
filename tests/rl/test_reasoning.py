"""Tasks from reasoning-gym: their own grades, for every dataset that the package has."""

import random
import threading
import time
import warnings
from typing import Any

import pytest

from course_lib.rl.problem import Problem
from course_lib.rl.reasoning import ReasoningGym, reasoning_gym_datasets

NEEDS_MORE = {"composite"}  # it is made of other datasets, which one has to give
SLOW = {"arc_agi", "futoshiki", "knight_swap", "rearc"}  # seconds to make four problems
HOSTILE = ("", "I don't know", "12 (3+4) <x> [1, 2]", "{", "None", "9" * 400)


@pytest.fixture(scope="module")
def gym() -> Any:
    with warnings.catch_warnings(action="ignore"):
        import reasoning_gym
    return reasoning_gym


@pytest.mark.parametrize("name", sorted(set(reasoning_gym_datasets()) - NEEDS_MORE - SLOW))
def test_any_dataset_is_a_task_graded_as_the_package_grades(gym: Any, name: str, capsys: Any) -> None:
    task = ReasoningGym(name, size=4, held_out=2, seed=3)
    reference = gym.create_dataset(name, size=4, seed=3)
    drawn = task.draw(1, random.Random(0))
    for problem in [*task.held_out, *drawn]:
        entry = reference[problem.metadata["index"]]
        assert problem.question == entry["question"].strip()
        if entry["answer"] is not None:  # some have too many right ones to name one
            wanted = reference.score_answer(str(entry["answer"]).strip(), entry)
            assert task.grade([problem], [problem.answer]) == [wanted]
            assert task.grade([problem], [f"I think <answer>{problem.answer}</answer>."]) == [wanted]
    assert not {problem.question for problem in drawn} & {problem.question for problem in task.held_out}
    values = task.grade([drawn[0]] * len(HOSTILE), HOSTILE)
    assert all(type(value) is float and 0.0 <= value <= 1.0 for value in values)
    assert task.name == f"reasoning_gym/{name}"


def test_options_size_seed_and_instruction() -> None:
    task = ReasoningGym("chain_sum", size=60, held_out=9, seed=5, instruction="Be brief.", min_digits=1, max_digits=1)
    assert len(task.held_out) == 9
    assert all(problem.question.endswith("=\nBe brief.") for problem in task.held_out)
    drawn = task.draw(30, random.Random(2))
    assert drawn == task.draw(30, random.Random(2)) != task.draw(30, random.Random(3))
    assert len({problem.question for problem in drawn}) == 30
    other = ReasoningGym("chain_sum", size=60, held_out=9, seed=6, min_digits=1, max_digits=1)
    assert [problem.answer for problem in other.held_out] != [problem.answer for problem in task.held_out]
    assert repr(task) == "ReasoningGym(reasoning_gym/chain_sum, 51 training problems, 9 held out)"


def test_what_is_held_out_is_never_drawn_even_from_few_problems() -> None:
    task = ReasoningGym("chain_sum", size=400, held_out=20, min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    held_out = {problem.question for problem in task.held_out}
    assert len(held_out) == len(task.held_out)
    drawn = task.draw(300, random.Random(0))
    assert len(drawn) == 300
    assert not held_out & {problem.question for problem in drawn}


def test_nothing_left_to_train_on() -> None:
    task = ReasoningGym("coin_flip", size=200, held_out=199, min_trials=1, max_trials=1)
    task._held_out |= {task._problem(199).question}
    with pytest.raises(ValueError, match="all problems of reasoning_gym/coin_flip are held out"):
        task.draw(1, random.Random(0))


def test_an_answer_that_would_take_for_ever() -> None:
    """Countdown's grader works out what it is given."""
    task = ReasoningGym("countdown", size=4, held_out=2)
    start = time.monotonic()
    (value,) = task.grade(task.held_out[:1], ["9**9**9**9"])
    assert value < 0.1
    assert time.monotonic() - start < 60  # 2 s on a quiet machine


def test_another_threads_grades_are_the_same() -> None:
    task = ReasoningGym("gcd", size=4, held_out=2)
    found: list[list[float]] = []
    thread = threading.Thread(target=lambda: found.append(task.grade(task.held_out, [p.answer for p in task.held_out])))
    thread.start()
    thread.join()
    assert found == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("countdwon", {}, "no dataset 'countdwon'; did you mean countdown"),
        ("zzzzzz", {}, r"no dataset 'zzzzzz'; reasoning_gym_datasets\(\)"),
        ("countdown", {"numbers": 3}, "no option numbers; it has min_numbers, max_numbers"),
        ("countdown", {"max_numbers": 1}, "refuses .*max_numbers must be"),
        ("composite", {}, "refuses .*at least one dataset"),
        ("gcd", {"size": 5, "held_out": 5}, "expected 0 < held_out < size"),
    ],
)
def test_bad_arguments(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ReasoningGym(name, **options)


def test_another_tasks_problem() -> None:
    with pytest.raises(ValueError, match="is no problem of reasoning_gym/gcd"):
        ReasoningGym("gcd", size=4, held_out=2).grade([Problem("1+1?", "2")], ["2"])
