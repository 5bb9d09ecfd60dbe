"""Messages arrive whole or not at all, and half of one is not waited for."""

import logging
import multiprocessing
import os
import threading
from functools import partial

import pytest

from agents.system.messages import ForwardingHandler, MessageReader, pack, send


@pytest.fixture
def pipe():
    ours, theirs = multiprocessing.Pipe()
    yield MessageReader(ours), theirs
    ours.close()
    theirs.close()


def test_messages_arrive_in_order(pipe):
    inbox, theirs = pipe
    for number in range(5):
        send(theirs, {"number": number})
    assert inbox.read() == [{"number": number} for number in range(5)]


def test_a_message_larger_than_the_pipe_arrives(pipe):
    inbox, theirs = pipe
    large = os.urandom(5_000_000)
    thread = threading.Thread(target=send, args=(theirs, large))
    thread.start()
    messages = []
    while not messages:
        messages = inbox.read()
    thread.join()
    assert messages == [large]


def test_half_a_message_is_not_waited_for(pipe):
    inbox, theirs = pipe
    packed = pack("one") + pack("two")
    arrived = []
    for byte in packed:
        os.write(theirs.fileno(), bytes([byte]))
        arrived += inbox.read()
    assert arrived == ["one", "two"]


def test_the_end_of_the_pipe_is_reported_after_what_came_before(pipe):
    inbox, theirs = pipe
    send(theirs, "last words")
    os.write(theirs.fileno(), pack("cut off")[:-1])
    theirs.close()
    assert inbox.read() == ["last words"]
    with pytest.raises(EOFError):
        inbox.read()


def test_what_is_logged_arrives_as_it_reads_whatever_it_is_about(pipe):
    inbox, theirs = pipe
    logger = logging.Logger("somewhere")
    logger.addHandler(ForwardingHandler(partial(send, theirs)))
    try:
        raise KeyError("why")
    except KeyError:
        logger.warning("%s of %s", lambda: "cannot be pickled", 3, exc_info=True)
    (record,) = inbox.read()
    assert record.levelno == logging.WARNING
    assert " of 3\nTraceback" in record.getMessage()
    assert logging.Formatter("%(message)s").format(record) == record.getMessage()  # once
