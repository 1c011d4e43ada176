"""Which device a slot gets when devices are lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.warden.devices import CRASHES, Devices


def test_a_slot_keeps_its_device() -> None:
    devices = Devices(["A", "B", "A"], ["C"])
    assert [devices.next_for(slot) for slot in range(3)] == ["A", "B", "A"]
    assert [devices.of(slot) for slot in range(4)] == ["A", "B", "A", ""]


def test_on_the_cpu_every_slot_goes_on() -> None:
    devices = Devices([])
    assert devices.next_for(0) == devices.next_for(7) == ""


def test_a_lost_device_is_replaced_by_one_in_nobodys_use() -> None:
    devices = Devices(["A", "B"], ["C"])
    assert devices.lose("A", "gone")
    assert not devices.lose("A", "again")
    assert devices.lost == {"A": "gone"}
    assert devices.next_for(0) == "C"
    assert devices.next_for(0) == "C"
    assert devices.next_for(1) == "B"


def test_without_a_free_device_the_slot_retires() -> None:
    devices = Devices(["A", "B"])
    devices.lose("A", "gone")
    assert devices.next_for(0) is None
    assert devices.next_for(1) == "B"
    devices.lose("B", "gone")
    assert devices.next_for(1) is None


def test_a_retired_slots_place_is_free_for_another() -> None:
    devices = Devices(["A", "A", "B"])
    devices.lose("A", "gone")
    assert devices.next_for(0) is None
    assert devices.next_for(1) is None
    devices.lose("B", "gone")
    assert devices.next_for(2) is None


def test_once_given_up_all_compute_on_the_cpu() -> None:
    devices = Devices(["A"])
    devices.lose("A", "gone")
    assert devices.next_for(0) is None
    devices.give_up()
    assert [devices.next_for(slot) for slot in range(4)] == [""] * 4


def test_some_deaths_in_a_row_are_the_devices_doing() -> None:
    devices = Devices(["A", "B"])
    for _ in range(CRASHES - 1):
        assert not devices.crashed("A", ready=True)
    devices.worked("A")
    for _ in range(CRASHES - 1):
        assert not devices.crashed("A", ready=True)
        assert not devices.crashed("B", ready=True)
    assert devices.crashed("A", ready=True)


def test_a_combination_of_a_function_may_be_what_crashes() -> None:
    devices = Devices(["A"], even=False)
    for _ in range(5 * CRASHES):
        assert not devices.crashed("A", ready=True)
    for _ in range(CRASHES - 1):
        assert not devices.crashed("A", ready=False)
    assert devices.crashed("A", ready=False)


NAMES = "ABCDE"


@settings(max_examples=300, deadline=None)
@given(
    slots=st.lists(st.sampled_from(NAMES), min_size=1, max_size=8),
    spares=st.sets(st.sampled_from(NAMES)),
    steps=st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=40),
)
def test_whatever_is_lost(
    slots: list[str], spares: set[str], steps: list[tuple[int, bool]]
) -> None:
    """No lost device is given; no slot moves to one in another's use; the last one lost ends all.

    Steps: a slot's worker ends, its device being lost or not.
    """
    spare = sorted(spares - set(slots))
    devices = Devices(slots, spare)
    living = dict(enumerate(slots))
    for slot, lost in steps:
        if slot not in living:
            continue
        before = living.pop(slot)
        if lost:
            devices.lose(before, "lost")
        after = devices.next_for(slot)
        if after is None:
            free = {*slots, *spare} - devices.lost.keys() - set(living.values())
            assert before in devices.lost
            assert not free
        else:
            assert after not in devices.lost
            assert after == before or after not in living.values()
            living[slot] = after
        assert devices.lost.keys() <= {*slots, *spare}
    healthy = {*slots, *spare} - devices.lost.keys()
    assert living or not healthy
