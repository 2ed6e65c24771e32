"""What goes on, in lines of logging: at sensible moments, each with what is done, of how many, and what is left."""

import logging
from itertools import pairwise

import pytest

from smd_evo.experiments.progress import Logged
from smd_evo.experiments.workload import Part, Workload, duration, workload


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock(caplog):
    caplog.set_level(logging.INFO, "smd_evo")
    return Clock()


def test_what_is_to_come_is_told_at_once(clock, caplog):
    Logged(clock).expect(Workload((Part("children", 12, 300),), seconds=7))
    assert caplog.messages == ["image evaluations to come: children 12 x 300; in all 3,600, about 7 s"]


def test_short_work_says_nothing_more(clock, caplog):
    progress = Logged(clock)
    for phase in ("one", "two"):
        progress.start(phase, 20)
        for _ in range(20):
            clock.seconds += 0.1
            progress.advance()
    assert caplog.messages == []


def test_first_after_five_seconds_then_every_half_minute(clock, caplog):
    progress = Logged(clock)
    progress.start("children", 1000)
    moments = []
    for _ in range(130):
        clock.seconds += 1
        before = len(caplog.messages)
        progress.advance()
        moments += [clock.seconds] * (len(caplog.messages) - before)
    assert moments == [5, 35, 65, 95, 125]
    assert caplog.messages[1] == "children: 35 of 1,000, about 16 min left"


def test_long_work_says_less_and_less_often_down_to_every_ten_minutes(clock, caplog):
    progress = Logged(clock)
    progress.start("children", None)
    moments = []
    for _ in range(3 * 24 * 60):
        clock.seconds += 60
        before = len(caplog.messages)
        progress.advance()
        moments += [clock.seconds] * (len(caplog.messages) - before)
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (60, 600)


def test_a_phase_that_begins_later_is_told(clock, caplog):
    progress = Logged(clock)
    progress.start("calibrating", None)
    clock.seconds = 6
    progress.start("children", 5)
    progress.start("children of another arm", 5)  # in the same moment
    assert caplog.messages == ["children"]


def test_how_things_stand_is_one_line(clock, caplog):
    progress = Logged(clock)
    progress.start("generations", 400)
    clock.seconds = 40
    progress.reached(100, "25/100: fitness 0.3\nvalidation 91.0%")
    assert caplog.messages == ["generations: 100 of 400, about 2 min left; 25/100: fitness 0.3; validation 91.0%"]


def test_records_come_from_children_of_the_package_s_logger_which_prints_nothing_by_itself(clock, caplog):
    Logged(clock).expect(workload([]))
    assert caplog.records[0].name == "smd_evo.experiments.progress"
    assert [type(each).__name__ for each in logging.getLogger("smd_evo").handlers] == ["NullHandler"]


def test_durations_are_rough():
    assert duration(119) == "about 119 s"
    assert duration(6_900) == "about 115 min"
    assert duration(90_000) == "about 25.0 h"
