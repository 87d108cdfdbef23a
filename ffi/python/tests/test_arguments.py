"""Arguments that make no sense, and what they are answered: an error of this package that says what would, and no harm."""

import copy

import numpy as np
import pytest

import roundel
from harness import threads


def test_arguments_that_do_not_fit_are_refused_and_harm_nothing():
    def body(comm):
        f4, f8 = np.zeros(6, "f4"), np.zeros(6, "f8")
        for words, call in [
            ("input is of float32, the output of float64", lambda: comm.all_reduce(f4, f8)),
            ("output has 5 elements, expected 6", lambda: comm.all_reduce(f4, f4[:5])),
            ("overlap", lambda: comm.all_reduce(f4[:5], f4[1:])),
            ("so the output of 2 ranks has 12, not 6", lambda: comm.all_gather(f4, np.zeros(6, "f4"))),
            ("root=2 in a world of 2", lambda: comm.broadcast(f4, 2)),
            ("root=-1", lambda: comm.reduce(f4, root=-1)),
            ("to=9", lambda: comm.send(f4, 9)),
            ("do not make 2 equal blocks", lambda: comm.all_to_all(f4[:5], f4[:5].copy())),
            ("3 counts for 2 ranks", lambda: comm.all_gather(f4, f4, [1, 2, 3])),
            ("negative", lambda: comm.reduce_scatter(f4, f4[:3], counts=[-1, 7])),
            ("add up to 7", lambda: comm.reduce_scatter(f4, f4[:3], counts=[3, 4])),
            ("together, or neither", lambda: comm.all_to_all(f4, f4, [3, 3])),
            ("'sum', 'prod'", lambda: comm.all_reduce(f4, op="add")),
            ("BIT_AND of float32", lambda: comm.all_reduce(f4, op="bit_and")),
            ("moved, not reduced", lambda: comm.all_reduce(np.zeros(3, "i2"))),
            ("color=-3", lambda: comm.split(-3)),
            ("message of its own", lambda: comm.send(f4, comm.rank)),
        ]:
            with pytest.raises(roundel.InvalidArgument, match=words):
                call()
        data = np.ones(3)
        comm.all_reduce(data)
        assert (data == 2).all()

    threads(2, body)


def test_numbers_that_c_cannot_hold_are_refused():
    with roundel.Communicator.threads(1)[0] as comm:
        for split in (dict(color=2**32 + 1), dict(color=1.5), dict(color=0, key=2**70), dict(color="0")):
            with pytest.raises(roundel.InvalidArgument):
                comm.split(**split)
        with pytest.raises(roundel.InvalidArgument) as refused:
            comm.subset([2**40])
        assert refused.value.rank is None
        with pytest.raises(roundel.InvalidArgument) as refused:
            comm.subset([7])
        assert refused.value.rank == 0
        with pytest.raises(TypeError, match="cannot be copied"):
            copy.copy(comm)
    with pytest.raises(roundel.InvalidArgument):
        roundel.Communicator.threads(2**33)


def test_wrong_types_are_told_what_is_expected():
    with roundel.Communicator.threads(1)[0] as comm:
        f4 = np.zeros(6, "f4")
        for words, call in [
            ("root='0'; it is an integer", lambda: comm.broadcast(f4, "0")),
            ("root=0.0; it is an integer", lambda: comm.reduce(f4, root=0.0)),
            ("root=None; it is an integer", lambda: comm.gather(f4, f4, None)),
            ("to='0'; it is an integer", lambda: comm.send(f4, "0")),
            ("source=.*; it is an integer", lambda: comm.start.recv(f4, [0])),
            ("to='1'; it is an integer", lambda: comm.group().sendrecv(f4, "1", f4, 0)),
            ("counts='6'; it is an integer", lambda: comm.all_gather(f4, f4, "6")),
            ("counts=6; it is a list of integers", lambda: comm.all_gather(f4, f4, 6)),
            ("recv_counts=6.0; it is an integer", lambda: comm.all_to_all(f4, f4, [6], [6.0])),
            ("expected the name of an element type, as in 'float32'", lambda: comm.alloc(4, np.float32)),
            ("expected the name of an element type, as in 'float32'", lambda: comm.explain("reduce", 4, None)),
            ("count='4'; it is an integer", lambda: comm.alloc("4")),
            ("expected a roundel.UniqueId", lambda: roundel.Communicator.init("abc", 0, 1)),
            ("made of 128 bytes, not of str", lambda: roundel.UniqueId("abc")),
            ("world='2'; it is an integer", lambda: roundel.Communicator.threads("2")),
        ]:
            with pytest.raises(ValueError, match=words) as refused:
                call()
            assert isinstance(refused.value, roundel.InvalidArgument)
        # Whatever is an integer to Python is one here.
        zero = np.int64(0)
        comm.broadcast(f4, zero)
        comm.all_gather(f4, f4.copy(), np.array([6]))
        assert comm.alloc(np.int64(4)).count == 4
        assert comm.explain("reduce", np.int32(4), root=zero)


def test_settings():
    with pytest.raises(roundel.InvalidArgument, match="timeout_ms"):
        roundel.Communicator.threads(1, timeout=5)
    with pytest.raises(roundel.InvalidArgument, match="ROUNDEL_CHANNELS"):
        roundel.Communicator.threads(1, channels=0)
    with pytest.raises(roundel.InvalidArgument, match="a world of 0"):
        roundel.Communicator.threads(0)
    with pytest.raises(roundel.InvalidArgument, match="128 bytes, not 3"):
        roundel.UniqueId(b"abc")
    (alone,) = roundel.Communicator.threads(1, reproducible=True, timeout_ms=1000)
    assert (alone.rank, alone.world, alone.hosts) == (0, 1, [[0]])
    with alone:
        data = np.arange(3.0)
        alone.all_reduce(data)
        np.testing.assert_array_equal(data, [0, 1, 2])
    for call in (alone.barrier, alone.check, alone.start.barrier, lambda: alone.alloc(3), lambda: alone.split(0)):
        with pytest.raises(roundel.InvalidArgument, match="closed"):
            call()
    alone.close()
