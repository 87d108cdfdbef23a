"""After a death the others go on, and newcomers take the place of the dead."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import roundel
from harness import PATIENCE_S, another, job, join, processes, run, threads  # noqa: F811, F401
from roundel import elastic


def test_the_rest_shrink_agree_and_grow():
    invitations = []

    def newcomer():
        with roundel.Communicator.enlist(invitations[0], timeout_ms=60_000) as comm:
            assert (comm.rank, comm.world, comm.members, comm.epoch) == (2, 3, [0, 2, 3], 2)
            total = np.array([1])
            comm.all_reduce_preserving(total)
            assert total == [3]

    def body(comm):
        assert (comm.members, comm.epoch) == ([0, 1, 2], 0)
        if comm.rank == 1:
            return
        data = np.arange(1000.0)
        with pytest.raises(roundel.PeerLost) as caught:
            comm.all_reduce_preserving(data)
        assert caught.value.ranks == (1,)
        np.testing.assert_array_equal(data, np.arange(1000.0))
        with comm.shrink() as rest:
            assert isinstance(rest, roundel.Communicator)
            assert (rest.rank, rest.world, rest.members, rest.epoch) == (comm.rank // 2, 2, [0, 2], 1)
            rest.all_reduce_preserving(data, "max")
            np.testing.assert_array_equal(data, np.arange(1000.0))
            factors = np.ones(3, np.int32)
            rest.all_reduce_preserving(factors, roundel.premul_sum(rest.rank + 2))
            np.testing.assert_array_equal(factors, [5] * 3)
            assert rest.agree(rest.rank == 0) is False
            assert rest.agree(True) is True
            assert rest.grow() is None
            joining = threading.Thread(target=newcomer, daemon=True)
            if rest.rank == 0:
                invitations.append(rest.invitation())
                joining.start()
            grown = rest.grow()
            while grown is None:
                grown = rest.grow()
            with grown:
                assert (grown.members, grown.epoch) == ([0, 2, 3], 2)
                total = np.array([1])
                grown.all_reduce_preserving(total)
                assert total == [3]
            # The old one works on.
            assert rest.agree(True)
            if rest.rank == 0:
                joining.join(PATIENCE_S)
                assert not joining.is_alive()

    threads(3, body, timeout_ms=60_000)


def test_one_rank_invites_others():
    with roundel.Communicator.from_env(iface="lo") as alone:
        assert alone.world == 1 and alone.grow() is None
        invitation = alone.invitation()
        assert alone.invitation() == invitation

        def newcomer():
            with roundel.Communicator.enlist(invitation, timeout_ms=60_000) as comm:
                total = np.array([1 << comm.rank])
                comm.all_reduce(total)
                assert total == [3]

        joining = threading.Thread(target=newcomer, daemon=True)
        joining.start()
        two = alone.grow()
        while two is None:
            two = alone.grow()
        with two:
            assert (two.rank, two.members, two.epoch) == (0, [0, 1], 1)
            total = np.array([1])
            two.all_reduce(total)
            assert total == [3]
            joining.join(PATIENCE_S)
            assert not joining.is_alive()


def test_refusals():
    with roundel.Communicator.from_env() as comm:
        assert comm.grow() is None and comm.agree(True)
        with comm.shrink() as same:
            assert same.world == 1 and same.epoch == 1
        data = np.ones(3)
        with pytest.raises(roundel.InvalidArgument, match="BIT_AND"):
            comm.all_reduce_preserving(data, "bit_and")
        data.flags.writeable = False
        with pytest.raises(roundel.InvalidArgument, match="all_reduce_preserving: the data"):
            comm.all_reduce_preserving(data)
    for call in (comm.shrink, comm.grow, comm.invitation, lambda: comm.agree(True), lambda: comm.epoch):
        with pytest.raises(roundel.InvalidArgument, match="closed"):
            call()
    for wrong in ("come in", "", "00", "é", "a\0b", None, b"00"):
        with pytest.raises(roundel.InvalidArgument, match="invitation"):
            roundel.Communicator.enlist(wrong)


# --- in processes ---


def _survive(report, rank, world, last):
    comm = join(rank, world)
    report("there")
    while comm.world > last:
        data = np.full(100_000, 1 << comm.members[comm.rank])
        before = data.copy()
        try:
            comm.all_reduce_preserving(data)
        except roundel.PeerLost as error:
            assert len(error.ranks) == 1
            np.testing.assert_array_equal(data, before)
        else:
            assert (data == sum(1 << member for member in comm.members)).all()
            continue
        with comm:
            comm = comm.shrink()
        data = np.full(1000, 1 << comm.members[comm.rank])
        comm.all_reduce(data)
        assert (data == sum(1 << member for member in comm.members)).all()
        report((comm.members, comm.epoch))
    comm.close()


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_those_who_live_have_the_exact_sum_of_just_these(job, transport):  # noqa: F811
    with processes(4, _survive, 2, environment={**job, "ROUNDEL_TRANSPORT": transport}) as ranks:
        for rank in ranks:
            assert rank.next() == "there"
        living = [0, 1, 2, 3]
        for epoch, dies in enumerate((2, 0)):
            ranks[dies].kill(signal.SIGKILL)
            living.remove(dies)
            for rank in living:
                assert ranks[rank].next() == (living, epoch + 1)
        for rank in living:
            assert ranks[rank].next() is None


def _waits(report, rank, world, how):
    with join(rank, world) as comm:
        comm.barrier()
        report("there")
        if rank == 1:
            signal.pause()
        if how == "enlist":
            invitation = comm.invitation()
        with pytest.raises(KeyboardInterrupt):
            if how == "enlist":
                roundel.Communicator.enlist(invitation)
            elif how == "agree":
                comm.agree(True)
            elif how == "shrink":
                comm.shrink()
            elif how == "grow":
                comm.grow()
            else:
                comm.all_reduce_preserving(np.ones(1000))
    return "interrupted"


@pytest.mark.parametrize("how", ["enlist", "agree", "shrink", "grow", "preserving"])
def test_ctrl_c_ends_the_wait(job, how):  # noqa: F811
    with processes(2, _waits, how, environment=job) as ranks:
        for rank in ranks:
            assert rank.next() == "there"
        # Wherever it hits, inside the call or just before: it is the test's word that it is noticed.
        time.sleep(0.3)
        ranks[0].kill(signal.SIGINT)
        assert ranks[0].next() == "interrupted"


# --- elastic ---

SAMPLES = 240


class Training(elastic.Stepwise):
    """Every step adds up all samples, whoever there is to share them; what comes out does not depend on who died."""

    def __init__(self, stop=None, end=None):
        self.steps, self.stopped, self.weights = 0, 0, np.ones(1000, np.uint64)
        self._stop, self._end = stop, end
        self.on_apply = lambda: None

    def gradient(self, begin, end):
        """What these samples contribute at this step. It depends on all steps before."""
        total = sum((sample + 1) * (self.steps + 3) for sample in range(begin, end))
        turned = self.weights << np.uint64(7) | self.weights >> np.uint64(57)
        return turned * np.uint64(end - begin) + np.uint64(total)

    def steps_done(self):
        return self.steps

    def is_done(self):
        return self.stopped > 0 or self.steps == self._end

    def step(self, comm):
        share = self.gradient(comm.rank * SAMPLES // comm.world, (comm.rank + 1) * SAMPLES // comm.world)
        stop = self._stop is not None and os.path.exists(self._stop)
        update = np.append(share, np.uint64(stop))
        comm.all_reduce(update)
        return update

    def apply(self, update):
        self.stopped = min(int(update[-1]), 1)
        self.weights = self.weights + update[:-1]
        self.steps += 1
        self.on_apply()

    def save(self):
        return np.concatenate([np.array([self.steps, self.stopped], np.uint64), self.weights]).tobytes()

    def load(self, state):
        words = np.frombuffer(state, np.uint64)
        self.steps, self.stopped, self.weights = int(words[0]), int(words[1]), words[2:].copy()


def expected(steps):
    """The weights of a training in which nobody ever died."""
    alone = Training()
    while alone.steps < steps:
        alone.apply(np.append(alone.gradient(0, SAMPLES), np.uint64(0)))
    return alone.weights


def _train(report, rank, world, stop, invitation=None):
    comm = roundel.Communicator.enlist(invitation) if invitation else join(rank, world)
    training = Training(stop)
    told = [None]

    def tell():
        # The members with whom this step was made, when they are others than before; and an invitation.
        if told[0] != running[0].members:
            told[0] = running[0].members
            report((told[0], running[0].invitation()))

    running = [comm]
    step = training.step
    training.step = lambda comm: (running.__setitem__(0, comm), step(comm))[1]
    training.on_apply = tell
    with elastic.run(training, comm, grow_every=2, min_ranks=2) as comm:
        np.testing.assert_array_equal(training.weights, expected(training.steps))
        return ("done", comm.members)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_training_outlives_every_rank_that_began_it(job, transport, tmp_path):  # noqa: F811
    environment = {**job, "ROUNDEL_TRANSPORT": transport}
    stop = tmp_path / "stop"
    world = 3
    with processes(world, _train, str(stop), environment=environment) as ranks:
        living = list(range(world))

        def told():
            """Until all who live have made a step together; an invitation of the last."""
            for rank in living:
                members, invitation = ranks[rank].next()
                while members != living:
                    members, invitation = ranks[rank].next()
            return invitation

        invitation = told()
        for dies in range(world):
            ranks[dies].kill(signal.SIGKILL)
            living.remove(dies)
            told()
            living.append(len(ranks))
            another(ranks, _train, str(stop), invitation, environment=environment)
            invitation = told()
        assert living == [3, 4, 5]
        stop.touch()
        for rank in living:
            assert ranks[rank].next() == ("done", living)


def test_who_fails_leaves_and_the_others_finish():
    class Fails(Training):
        def step(self, comm):
            if self.steps == 3:
                raise ZeroDivisionError("at the third step")
            return super().step(comm)

    def body(comm):
        if comm.members[comm.rank] == 1:
            with pytest.raises(ZeroDivisionError):
                elastic.run(Fails(end=8), comm)
            assert "closed" in repr(comm)
            return None
        training = Training(end=8)
        with elastic.run(training, comm) as rest:
            np.testing.assert_array_equal(training.weights, expected(8))
            return rest.members

    assert threads(3, body, timeout_ms=60_000) == [[0, 2], None, [0, 2]]


def test_too_few_ranks_are_an_end():
    def body(comm):
        if comm.rank == 1:
            return
        with pytest.raises(roundel.PeerLost) as caught:
            elastic.run(Training(end=8), comm, min_ranks=2)
        assert caught.value.ranks == (1,) and "closed" in repr(comm)

    threads(2, body, timeout_ms=60_000)


def test_states_that_differ_are_found():
    def body(comm):
        training = Training(end=8)
        if comm.rank == 2:
            training.weights[7] += np.uint64(1)
        with pytest.raises(roundel.Corrupted, match="rank 2 hold another state") as caught:
            elastic.run(training, comm)
        assert caught.value.ranks == (2,)

    threads(3, body, timeout_ms=60_000)


@pytest.mark.parametrize("wrong", [{"grow_every": -1}, {"min_ranks": 0}, {"grow_every": 1.5}])
def test_policies_that_make_no_sense(wrong):
    with roundel.Communicator.from_env() as comm, pytest.raises(roundel.InvalidArgument):
        elastic.run(Training(end=1), comm, **wrong)


def test_whoever_is_behind_catches_up():
    def body(comm):
        training = Training(end=8)
        if comm.rank == 1:
            while training.steps < 5:
                training.apply(np.append(training.gradient(0, SAMPLES), np.uint64(0)))
        elastic.catch_up(training, comm)
        assert training.steps == 5
        with elastic.run(training, comm):
            np.testing.assert_array_equal(training.weights, expected(8))

    threads(3, body, timeout_ms=60_000)
