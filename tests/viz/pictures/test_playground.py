"""The playground: every knob serves the requests anew, and the map and the bars show what came of it."""

import pytest

from course_lib.viz import fragmentation_playground
from course_lib.viz.playground import ALLOCATORS, LENGTHS, RESERVE, SIZES, Setting

CHANGES = {
    "rate": 20,
    "size": 8192,
    "lengths": "long (256 to 512)",
    "allocator": "buddy",
    "reserve": "exact (oracle)",
}


@pytest.mark.parametrize("knob", CHANGES)
def test_a_knob_redraws(knob: str) -> None:
    playground = fragmentation_playground()
    before, playground.map.frame = playground.map.payload, 3
    playground.controls[knob].value = CHANGES[knob]
    assert getattr(playground.setting, knob) == CHANGES[knob]
    assert playground.map.payload != before
    assert playground.map.frame == len(playground.map.snapshots) // 2
    again = playground.setting.run()
    assert playground.map.snapshots == tuple(again.snapshots)
    bar = playground.map.payload["runs"][0]
    assert bar["shares"] == [again.waste.used, again.waste.reserved, again.waste.internal, again.waste.external]
    assert sum(bar["shares"]) == pytest.approx(1)
    assert bar["label"] == str(playground.setting)
    assert str(playground.setting) in playground.words()


def test_it_remembers_the_last_runs() -> None:
    playground = fragmentation_playground()
    for rate in range(7, 15):
        playground.controls["rate"].value = rate
    assert [bar["label"].split(", ")[3] for bar in playground.map.payload["runs"]] == [
        "14/s",
        "13/s",
        "12/s",
        "11/s",
        "10/s",
    ]
    texts = [text.get_text() for text in playground.figure().axes[0].texts]
    assert sum(text.startswith("mean batch") for text in texts) == 5


def test_knowing_the_length_uses_more_of_the_memory() -> None:
    waste = [Setting(20, "chats (ShareGPT)", "first fit", reserve, 4096).run().waste for reserve in RESERVE]
    assert [part.used for part in waste] == sorted(part.used for part in waste)
    assert waste[0].internal > waste[1].internal > waste[2].internal == 0


@pytest.mark.parametrize("size", [SIZES[0], SIZES[-1]])
def test_every_setting_can_be_served_and_drawn(size: int) -> None:
    for lengths in LENGTHS:
        for allocator in ALLOCATORS:
            for reserve in RESERVE:
                run = Setting(20, lengths, allocator, reserve, size).run()
                assert run.finished == 100
                assert run.snapshots
