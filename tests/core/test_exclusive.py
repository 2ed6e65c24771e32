"""Threads: one has a network at a time, whoever shares something of it, and nobody waits for ever."""

import copy
import gc
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from helpers import SmallNet, same_bits, state_bits
from torch import nn

from smd_evo import Mutation, ParameterSpace, RandomSubspace
from smd_evo.core.exclusive import Exclusive, _blocks
from smd_evo.errors import NetworkInUse, WrongParent


def mutation(key=1):
    return Mutation(key, 1.0, RandomSubspace(0.5), key)


def whole_and_part():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    return network, network[0]


def tied():
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = one.weight
    return one, other


def tied_by_memory():
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight.data = one.weight.data
    return one, other


def wrapped():
    network = nn.Linear(4, 4)
    return network, nn.Sequential(network)


def the_same():
    network = nn.Linear(4, 4)
    return network, network


SHARING = [the_same, whole_and_part, tied, tied_by_memory, wrapped]


class Elsewhere:
    """A thread that has a child applied until it is told to leave it."""

    def __init__(self, space, child=None, meanwhile=lambda: None):
        self._space, self._child, self._meanwhile = space, child or mutation(9), meanwhile
        self._inside, self._leave = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self):
        self.done = self._pool.submit(self._run)
        assert self._inside.wait(60)
        return self

    def _run(self):
        with self._space.applied(self._child):
            self._inside.set()
            assert self._leave.wait(60)
            return self._meanwhile()

    def go_on(self):
        self._leave.set()

    def __exit__(self, *error):
        self.go_on()
        self._pool.shutdown()


def waiting(count=1):
    """Wait until as many threads wait."""
    for _ in range(60_000):
        if len(_blocks.waiting) == count:
            return
        threading.Event().wait(0.001)
    pytest.fail("nobody waits")


@pytest.mark.parametrize("sharing", SHARING, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "act",
    [
        lambda space: space.fingerprint(),
        lambda space: str({name: tensor.tolist() for name, tensor in space.copied().items()}),
        lambda space: space.values_at(torch.arange(space.size)).tolist(),
        lambda space: space.values_of(mutation()).values.tolist(),
        lambda space: str(space.make_child(mutation()).state_dict()),
        lambda space: str(copy.deepcopy(space).module.state_dict()),
        lambda space: str(pickle.loads(pickle.dumps(space)).module.state_dict()),
        lambda space: space.layout,
    ],
    ids=["fingerprint", "copied", "values_at", "values_of", "make_child", "deepcopy", "pickle", "layout"],
)
def test_whatever_is_read_is_the_parent_however_others_patch_it(sharing, act):
    torch.manual_seed(0)
    networks = sharing()
    mine, yours = (ParameterSpace(network) for network in networks)
    alone = act(ParameterSpace(networks[0]))
    with Elsewhere(yours) as other, ThreadPoolExecutor(1) as pool:
        found = pool.submit(act, mine)
        waiting()
        assert not found.done()
        other.go_on()
        assert found.result(60) == alone


class Told:
    """Says in its pickle whether somebody has a network while it is written."""

    def __reduce__(self):
        return bool, (len(_blocks.held) > 0,)


class Unwritten:
    def __reduce__(self):
        raise ValueError("not to be written")


@pytest.mark.parametrize("write", [pickle.dumps, ForkingPickler.dumps])
def test_nobody_else_has_the_network_until_its_last_tensor_is_pickled(write):
    network = nn.Linear(4, 4)
    network.told = Told()
    space = ParameterSpace(network)
    assert pickle.loads(write(space)).module.told is True
    assert not _blocks.held
    network.told = Unwritten()
    with pytest.raises(ValueError, match="not to be written"):
        write(space)
    gc.collect()
    assert not _blocks.held


def test_a_network_and_its_space_stay_together_in_a_pickle():
    space = ParameterSpace(nn.Linear(4, 4))
    module, twin = pickle.loads(pickle.dumps((space.module, space)))
    assert twin.module is module


def test_many_threads_over_two_spaces_and_a_part_leave_the_parent_and_fold_what_they_were_to():
    torch.manual_seed(0)
    network = SmallNet()
    spaces = [ParameterSpace(network), ParameterSpace(network), ParameterSpace(network.head)]
    before = state_bits(network)
    expected = [[state_bits(space.make_child(mutation(key))) for key in range(10)] for space in spaces]

    def use(key):
        for space, children in zip(spaces, expected, strict=True):
            assert same_bits(state_bits(space.make_child(mutation(key))), children[key])
            with space.applied(mutation(key)) as child, space.applied(mutation(key + 1)):
                assert child is space.module
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(use, list(range(10)) * 3))
    assert same_bits(before, state_bits(network))
    assert not _blocks.held


def test_two_networks_do_not_wait_for_each_other():
    one, other = ParameterSpace(nn.Linear(4, 4)), ParameterSpace(nn.Linear(4, 4))
    with Elsewhere(other), one.applied(mutation()):
        assert len(_blocks.held) == 2


def test_a_fold_waits_and_folds_into_the_parent():
    torch.manual_seed(0)
    space = ParameterSpace(nn.Linear(4, 4))
    expected = state_bits(space.make_child(mutation()))
    with Elsewhere(space) as other, ThreadPoolExecutor(1) as pool:
        folded = pool.submit(space.fold, mutation())
        waiting()
        other.go_on()
        folded.result(60)
    assert same_bits(state_bits(space.module), expected)


def test_a_restore_takes_back_nothing_of_another_threads():
    torch.manual_seed(0)
    space = ParameterSpace(nn.Linear(4, 4))
    child = state_bits(space.make_child(mutation(9)))
    with Elsewhere(space, meanwhile=lambda: state_bits(space.module)) as other:
        space.restore()
        other.go_on()
        assert same_bits(other.done.result(60), child)


def test_a_block_that_a_generator_holds_may_end_in_another_thread():
    torch.manual_seed(0)
    space = ParameterSpace(nn.Linear(4, 4))
    before = state_bits(space.module)

    def children():
        with space.applied(mutation()) as module:
            yield module

    kept = children()
    next(kept)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(space.fingerprint)
        waiting()
        with ThreadPoolExecutor(1) as closing:
            closing.submit(kept.close).result(60)
        assert found.result(60) == space.fingerprint()
    assert same_bits(before, state_bits(space.module))


class TestNobodyWaitsForEver:
    def test_for_a_thread_that_has_ended(self):
        space = ParameterSpace(nn.Linear(4, 4))
        block = space.applied(mutation())
        thread = threading.Thread(target=block.__enter__, name="gone")
        thread.start()
        thread.join()
        with pytest.raises(NetworkInUse, match="a child that thread 'gone' has left applied"):
            space.fingerprint()
        block.__exit__(None, None, None)
        assert space.fingerprint()

    def test_for_a_thread_that_waits_for_this_one(self):
        mine, yours = ParameterSpace(nn.Linear(4, 4)), ParameterSpace(nn.Linear(4, 4))
        with Elsewhere(yours, meanwhile=mine.fingerprint) as other, mine.applied(mutation()):
            other.go_on()
            waiting()
            with pytest.raises(NetworkInUse, match="whose thread waits for a network of this one"):
                yours.fingerprint()
        assert len(other.done.result(60)) == 32
        assert not _blocks.held
        assert not _blocks.waiting

    @pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals to a thread")
    def test_and_ctrl_c_ends_the_waiting(self):
        space = ParameterSpace(nn.Linear(4, 4))
        handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
        gc.disable()
        try:
            with Elsewhere(space):
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                with pytest.raises(KeyboardInterrupt):
                    space.fingerprint()
                assert not _blocks.waiting
        finally:
            signal.signal(signal.SIGALRM, handler)
            gc.enable()
        assert space.fingerprint()


class TestCopies:
    def test_nothing_of_threads_is_pickled_or_copied(self):
        space = ParameterSpace(nn.Linear(4, 4))
        with space.applied(mutation()):
            child = state_bits(space.module)
            for twin in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
                assert twin.depth == 0
                assert same_bits(child, state_bits(twin.module))
        assert vars(nn.Linear(4, 4)).keys() == vars(space.module).keys()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_forked_process_has_the_parent_though_a_thread_had_patched_it(self):
        torch.manual_seed(0)
        space = ParameterSpace(nn.Linear(4, 4))
        fingerprint = space.fingerprint()
        reads, writes = os.pipe()
        with Elsewhere(space):
            child = os.fork()
            if not child:
                with space.applied(mutation()):
                    pass
                os.write(writes, space.fingerprint().encode())
                os._exit(0)
            os.waitpid(child, 0)
        assert os.read(reads, 32).decode() == fingerprint
        os.close(reads)
        os.close(writes)


@pytest.mark.parametrize("sharing", SHARING, ids=lambda make: make.__name__)
def test_blocks_of_two_spaces_that_are_left_as_they_were_entered_leave_the_parent(sharing):
    torch.manual_seed(0)
    networks = sharing()
    before = [state_bits(network) for network in networks]
    outer, inner = (ParameterSpace(network).applied(mutation()) for network in networks)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert all(map(same_bits, before, map(state_bits, networks)))
    inner.__exit__(None, None, None)
    assert all(map(same_bits, before, map(state_bits, networks)))
    assert not _blocks.held


def test_nothing_is_folded_into_or_loaded_over_a_child_of_another_space():
    network = nn.Linear(4, 4)
    one, other = ParameterSpace(network), ParameterSpace(network)
    before, values = state_bits(network), one.copied()
    with other.applied(mutation()):
        with pytest.raises(WrongParent, match="expected the parent itself"):
            one.fold(mutation())
        with pytest.raises(WrongParent, match="values: expected"):
            one.load(values)
    assert same_bits(before, state_bits(network))


def test_one_thread_may_enter_blocks_in_each_other_and_leave_them_once_more():
    network = nn.Linear(4, 4)
    outer, inner = Exclusive(network, random=True), Exclusive(network)
    outer.enter()
    inner.enter()
    outer.leave()
    outer.leave()
    assert inner.held
    inner.leave()
    assert not _blocks.held
