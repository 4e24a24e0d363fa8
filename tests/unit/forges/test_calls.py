import pytest

from gitops_ml.errors import ServiceError
from gitops_ml.forges._calls import TransientError, field, said
from tests.fakes.forges import Clock


def failing(times, *, wait_s=None, takes_s=0.0, clock=None):
    """A call that fails so often, then returns how often it was made."""
    made = []

    def act():
        made.append(1)
        if clock:
            clock.now += takes_s
        if len(made) <= times:
            raise TransientError("busy", wait_s=wait_s)
        return len(made)

    return act


def test_keep_trying__waits_grow_and_stay_within_the_cap():
    clock = Clock()

    assert clock.patience().keep_trying(failing(5)) == 6
    assert clock.slept == [1, 2, 4, 8, 16]


def test_keep_trying__sixth_failure__is_final():
    with pytest.raises(ServiceError, match=r"^busy; gave up after 6 tries$"):
        Clock().patience().keep_trying(failing(6))


def test_keep_trying__two_calls__share_one_cap():
    clock = Clock()
    patience = clock.patience(cap_s=10)
    patience.keep_trying(failing(1, wait_s=8))

    with pytest.raises(ServiceError, match="the next try would be in 8 s, and at most 10 s are spent on waiting"):
        patience.keep_trying(failing(1, wait_s=8))
    assert clock.slept == [8]


def test_keep_trying__calls_that_time_out__count_too():
    clock = Clock()

    with pytest.raises(ServiceError):
        clock.patience(cap_s=20).keep_trying(failing(9, takes_s=15, clock=clock))
    assert sum(clock.slept) + 2 * 15 <= 36


def test_said__secret_and_control_characters__are_not_shown():
    assert said({"message": "token s3cret\r\n is \x1b[31mbad\u202e"}, secret="s3cret") == "token *** is [31mbad"
    assert said(None, secret="") == "no reason given"
    assert len(said("x" * 1000, secret="")) == 200


@pytest.mark.parametrize("answer", [None, [], {}, {"id": "7"}, {"id": True}, {"id": None}])
def test_field__not_there_or_of_another_type__is_garbled(answer):
    with pytest.raises(TransientError, match="has no `id`"):
        field(answer, "id", int)
