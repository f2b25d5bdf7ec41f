"""Too few blocks: somebody has to give way."""

import random
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.scheduling.running import Traced, difference
from course_lib.grading.judge import call
from course_lib.paged_attention import PagedKVManager
from course_lib.scheduling import Request, RequestStatus, Scheduler, SchedulerConfig, SchedulerOutput
from course_lib.viz.tables import Cell, Table

make_room = Exercise("04.preempt", "make_room", "Somebody has to give way", difficulty=4, importance=4, minutes=25)

_Policy = Literal["fcfs", "priority"]
_SIZE = 2


@make_room.part(4, "the last to come give their blocks, as many of them as needed, be it the one that asks")
def _victims(answer: Answer) -> None:
    for scene in _scenes("fcfs"):
        _compare(answer, scene, ("victims", "running", "free blocks"))


@make_room.part(4, "a victim has nothing computed, and waits in front of the queue")
def _waits(answer: Answer) -> None:
    for scene in _scenes("fcfs"):
        _compare(answer, scene, ("waiting", "computed", "status", "preemptions"))


@make_room.part(3, "by priority: the least important one gives way, and what was planned for it is off the plan")
def _priority(answer: Answer) -> None:
    for scene in _scenes("priority"):
        _compare(answer, scene, ("victims", "running", "free blocks", "waiting", "plan"))


@make_room.part(1, "a scheduler with it runs requests to their end, and plans what vLLM's plans")
def _in_a_scheduler(answer: Answer) -> None:
    for seed in range(30):
        told = difference(_with(answer), Traced.draw(seed, small=True))
        if told:
            raise WrongAnswer("another-plan", f"in the course's scheduler, with few blocks: {told}")


@dataclass
class _Scene:
    """Running requests that fill the pool, and one of them that wants to grow."""

    scheduler: Scheduler
    request: Request
    num_tokens: int
    plan: dict[str, int]

    def state(self, victims: list[Request]) -> dict[str, Any]:
        scheduler, everybody = self.scheduler, list(self.scheduler.requests.values())
        return {
            "victims": [one.request_id for one in victims],
            "running": [one.request_id for one in scheduler.running],
            "free blocks": scheduler.kv_manager.pool.num_free_blocks,
            "waiting": [one.request_id for one in scheduler.waiting],
            "computed": {one.request_id: one.num_computed_tokens for one in everybody},
            "status": {one.request_id: one.status.name for one in everybody},
            "preemptions": {one.request_id: one.num_preemptions for one in everybody},
            "plan": self.plan,
        }


def _scenes(policy: _Policy, count: int = 150) -> list[_Scene]:
    """Return scenes, those first in which the one that asks stays."""
    scenes = [_scene(seed, policy) for seed in range(count)]
    return sorted(scenes, key=_asker_goes)


def _asker_goes(scene: _Scene) -> bool:
    twin = deepcopy(scene)
    return twin.request in _right(twin)


def _scene(seed: int, policy: _Policy) -> _Scene:
    chance = random.Random(seed)
    count = chance.randint(1, 5)
    lengths = [chance.randint(1, 8) for _ in range(count)]
    manager = PagedKVManager(sum(-(-length // _SIZE) for length in lengths) + 6, _SIZE)
    config = SchedulerConfig(max_num_seqs=count, max_model_len=64, policy=policy)
    scheduler = Scheduler(config, manager)
    for place, length in enumerate(lengths):
        tokens = [10 * place + position for position in range(length)]
        scheduler.add_request(Request("ABCDE"[place], tokens, 4, (), chance.randint(0, 2), float(place)))
    scheduler.schedule()
    if policy == "priority":
        chance.shuffle(scheduler.running)  # as if they had come at different times
    scheduler.add_request(Request("Z", [99] * 3, 4, (), 1, 99.0))
    asking = chance.randrange(count)
    request = scheduler.running[asking]
    request.token_ids += [7] * chance.randint(1, 8)
    plan = {one.request_id: 1 for one in scheduler.running[:asking]}
    manager.pool.get_new_blocks(max(0, manager.pool.num_free_blocks - chance.randint(0, 1)))  # others hold these
    return _Scene(scheduler, request, request.num_tokens, plan)


def _right(scene: _Scene) -> list[Request]:
    scheduler, victims = scene.scheduler, []
    manager = scheduler.kv_manager
    while manager.num_blocks_needed(scene.request.request_id, scene.num_tokens) > manager.pool.num_free_blocks:
        victim = scheduler.running[-1]
        if scheduler.config.policy == "priority":
            victim = max(scheduler.running, key=lambda one: (one.priority, one.arrival_time))
        scheduler.running.remove(victim)
        manager.free(victim.request_id)
        victim.status = RequestStatus.PREEMPTED
        victim.num_computed_tokens = 0
        victim.num_preemptions += 1
        scheduler.waiting.put_back(victim)
        scene.plan.pop(victim.request_id, None)
        victims.append(victim)
        if victim is scene.request:
            break
    return victims


def _compare(answer: Answer, scene: _Scene, watched: tuple[str, ...]) -> None:
    policy = scene.scheduler.config.policy
    twin = deepcopy(scene)
    before = scene.state([])
    right = twin.state(_right(twin))
    got = call(answer, scene.scheduler, scene.request, scene.num_tokens, scene.plan)
    if not isinstance(got, list) or not all(isinstance(one, Request) for one in got):
        raise WrongAnswer("no-list", f"the victims were expected as a list of requests, and {got!r} came")
    found = scene.state(got)
    wrong = [key for key in watched if found[key] != right[key]]
    if not wrong:
        return
    name, why = _diagnose(wrong, found, right, scene.request.request_id, before)
    said = (
        f"{', '.join(before['running'])} run ({policy}), {before['free blocks']} blocks are free, and {scene.request.request_id} "
        f"wants slots for {scene.num_tokens} tokens"
    )
    rows: list[list[Cell | str]] = [
        [key, str(right[key]), Cell(str(found[key]), "right" if found[key] == right[key] else "wrong")] for key in right
    ]
    raise WrongAnswer(name, f"{said}: {why}", Table("After make_room", ["", "expected", "yours"], rows))


def _diagnose(
    wrong: list[str], found: dict[str, Any], right: dict[str, Any], asks: str, before: dict[str, Any]
) -> tuple[str, str]:
    """Return the mistake's name, and what to say of it."""
    victims, expected = found["victims"], right["victims"]
    if wrong[0] == "victims":
        if [*victims, asks] == expected:
            return "spares-itself", f"{asks} is the next one to give way, and was not preempted"
        if victims and not expected:
            return "preempts-without-need", "nobody has to give way: there are enough blocks"
        if victims == expected[: len(victims)]:
            return "stops-too-early", f"{victims or 'nobody'} gave way, and that is not enough"
        if expected == victims[: len(expected)]:
            return "preempts-too-many", f"{victims} gave way, and {expected} are enough"
        if before["running"][0] == victims[0] != expected[0]:
            return "first-victim", f"{victims[0]} gave way first: it has run longest, and most is lost with it"
        if victims[0] == before["running"][-1]:
            return "ignores-priority", f"{victims[0]} came last and gave way, but somebody else is less important"
        return "another-victim", f"{victims} gave way, and {expected} should have"
    key = wrong[0]
    told = {
        "running": ("still-running", "a victim is among the running requests still"),
        "free blocks": ("keeps-its-blocks", "a victim's blocks were not given back"),
        "computed": ("keeps-computed", "a victim's num_computed_tokens counts keys and values that are gone"),
        "status": ("wrong-status", "a victim's status is not PREEMPTED"),
        "preemptions": ("does-not-count", "a victim's num_preemptions was not counted"),
        "plan": (
            "still-in-the-plan",
            "a victim is in the plan still: the model would compute for a request without slots",
        ),
    }
    if key == "waiting":
        missing = [name for name in right["waiting"] if name not in found["waiting"]]
        if missing:
            return "drops-the-victim", f"{missing[0]} is nowhere any more: it has to wait for its next turn"
        return (
            "back-of-the-queue",
            "a victim has to wait in front of those who never ran, at its own place in the queue",
        )
    return told[key]


def _with(answer: Answer) -> type[Scheduler]:
    """Return the course's scheduler with the learner's function in it."""

    class Mounted(Scheduler):
        def _schedule_running(self, output: SchedulerOutput, budget: int) -> int:
            plan, manager, index = output.num_scheduled_tokens, self.kv_manager, 0
            while index < len(self.running) and sum(plan.values()) < budget:
                request = self.running[index]
                new = min(request.num_tokens - request.num_computed_tokens, budget - sum(plan.values()))
                tokens = request.num_computed_tokens + new
                for victim in call(answer, self, request, tokens, plan):
                    output.preempted[victim.request_id] = request.request_id
                if request not in self.running:
                    break
                manager.allocate_slots(request.request_id, tokens, request.block_hashes(manager.block_size))
                plan[request.request_id] = new
                index = self.running.index(request) + 1
            return budget - sum(plan.values())

    return Mounted
