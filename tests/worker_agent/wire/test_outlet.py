"""What waits for a destination that takes no more."""

from __future__ import annotations

import threading

import zmq

from worker_agent.wire.mailbox import Mailbox
from worker_agent.wire.outlet import MAX_WAITING_BYTES, MAX_WAITING_MESSAGES, Frames, Outlet


class Destination:
    """Takes as many messages as it has room for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken: list[Frames] = []

    def send(self, frames: Frames) -> None:
        if len(self.taken) >= self.room:
            raise zmq.Again
        self.taken.append(frames)


def test_messages_wait_in_order_until_there_is_room() -> None:
    destination = Destination(room=2)
    outlet = Outlet(destination.send)
    messages = [[str(number).encode()] for number in range(5)]
    assert all(outlet.push(message) for message in messages)
    assert destination.taken == messages[:2]
    destination.room = 4
    outlet.flush()
    assert outlet.is_waiting
    destination.room = 10
    assert outlet.push([b"late"])
    outlet.flush()
    assert destination.taken == [*messages, [b"late"]]
    assert not outlet.is_waiting


def test_a_full_queue_says_so_instead_of_growing() -> None:
    by_count, by_size = Outlet(Destination(0).send), Outlet(Destination(0).send)
    assert sum(by_count.push([b"x"]) for _ in range(2 * MAX_WAITING_MESSAGES)) == MAX_WAITING_MESSAGES
    frame = bytes(MAX_WAITING_BYTES // 4)
    assert sum(by_size.push([frame]) for _ in range(10)) == 4


def test_room_that_was_given_back_counts_again() -> None:
    destination = Destination(0)
    outlet = Outlet(destination.send)
    frame = bytes(MAX_WAITING_BYTES)
    assert outlet.push([frame])
    assert not outlet.push([b"x"])
    destination.room = 1
    outlet.flush()
    assert outlet.push([b"x"])


def test_a_mailbox_wakes_its_reader_and_loses_nothing() -> None:
    mailbox: Mailbox[int] = Mailbox()
    count, threads = 2000, 4

    def write(start: int) -> None:
        for number in range(count):
            mailbox.put(start + number)

    writers = [threading.Thread(target=write, args=(10**6 * number,)) for number in range(threads)]
    for writer in writers:
        writer.start()
    poller = zmq.Poller()
    poller.register(mailbox.fileno(), zmq.POLLIN)
    seen: list[int] = []
    while len(seen) < count * threads:
        assert poller.poll(5000), "nobody woke the reader, and items are waiting"
        seen.extend(mailbox.drain())
    assert sorted(seen) == sorted(10**6 * number + n for number in range(threads) for n in range(count))
    assert not poller.poll(0)
    for writer in writers:
        writer.join()
    mailbox.close()
