# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Preemption."""

from course_lib.scheduling import RequestStatus
from wrong_answers import wrong


def _full(scheduler, request, num_tokens):
    manager = scheduler.kv_manager
    return manager.num_blocks_needed(request.request_id, num_tokens) > manager.pool.num_free_blocks


def _worst(scheduler):
    if scheduler.config.policy == "priority":
        return max(scheduler.running, key=lambda one: (one.priority, one.arrival_time))
    return scheduler.running[-1]


def _out(scheduler, victim, plan):
    scheduler.running.remove(victim)
    scheduler.kv_manager.free(victim.request_id)
    victim.status = RequestStatus.PREEMPTED
    victim.num_computed_tokens = 0
    victim.num_preemptions += 1
    scheduler.waiting.put_back(victim)
    plan.pop(victim.request_id, None)


def _answer(choose=_worst, out=_out):
    def make_room(scheduler, request, num_tokens, plan):
        victims = []
        while _full(scheduler, request, num_tokens):
            victims.append(choose(scheduler))
            out(scheduler, victims[-1], plan)
            if victims[-1] is request:
                break
        return victims

    return make_room


wrong("04.preempt", "first-victim", "Preempts the request that has run longest.")(
    _answer(choose=lambda scheduler: scheduler.running[0])
)
wrong("04.preempt", "ignores-priority", "Preempts the last to come, whatever the policy.")(
    _answer(choose=lambda scheduler: scheduler.running[-1])
)


@wrong("04.preempt", "stops-too-early", "Preempts one request and leaves it at that.")
def one_is_enough(scheduler, request, num_tokens, plan):
    if not _full(scheduler, request, num_tokens):
        return []
    victim = _worst(scheduler)
    _out(scheduler, victim, plan)
    return [victim]


@wrong("04.preempt", "spares-itself", "Never preempts the request that asks.")
def spares_itself(scheduler, request, num_tokens, plan):
    victims = []
    while _full(scheduler, request, num_tokens) and _worst(scheduler) is not request:
        victims.append(_worst(scheduler))
        _out(scheduler, victims[-1], plan)
    return victims


@wrong("04.preempt", "preempts-too-many", "Clears out everybody who came later.")
def everybody(scheduler, request, num_tokens, plan):
    victims = []
    if _full(scheduler, request, num_tokens):
        while request in scheduler.running:
            victims.append(_worst(scheduler))
            _out(scheduler, victims[-1], plan)
    return victims


@wrong("04.preempt", "preempts-without-need", "Preempts first and looks then.")
def first_then_look(scheduler, request, num_tokens, plan):
    victims = []
    while True:
        victims.append(_worst(scheduler))
        _out(scheduler, victims[-1], plan)
        if victims[-1] is request or not _full(scheduler, request, num_tokens):
            return victims


def _to_the_back(scheduler, victim, plan):
    _out(scheduler, victim, plan)
    scheduler.waiting.remove(victim)
    scheduler.waiting.add(victim)


def _gone(scheduler, victim, plan):
    _out(scheduler, victim, plan)
    scheduler.waiting.remove(victim)


def _keeps_computed(scheduler, victim, plan):
    computed = victim.num_computed_tokens
    _out(scheduler, victim, plan)
    victim.num_computed_tokens = computed


def _waits_as_new(scheduler, victim, plan):
    _out(scheduler, victim, plan)
    victim.status = RequestStatus.WAITING


def _still_planned(scheduler, victim, plan):
    _out(scheduler, victim, {})


wrong("04.preempt", "back-of-the-queue", "Sends a victim to the end of the queue.")(_answer(out=_to_the_back))
wrong("04.preempt", "drops-the-victim", "Puts a victim nowhere.")(_answer(out=_gone))
wrong("04.preempt", "keeps-computed", "Leaves a victim's count of computed tokens.")(_answer(out=_keeps_computed))
wrong("04.preempt", "wrong-status", "Calls a victim a waiting request.")(_answer(out=_waits_as_new))
wrong("04.preempt", "still-in-the-plan", "Leaves in the plan what was planned for a victim.")(
    _answer(out=_still_planned)
)
