"""The register and the tokens: who may hold how many sessions, over all replicas, living and dead."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.config import ServeConfig, Token
from serve.meters import Meters, render
from serve.protocol import Refusal
from serve.register import LAPSES_AFTER, Register
from serve.service import LocalRegistrar, Service
from serve.tokens import bearer, find_token, hash_token, new_token


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_counted_over_replicas() -> None:
    register = Register()
    assert register.admit("a", "1", "token", 2)
    assert register.admit("b", "2", "token", 2)
    assert not register.admit("b", "3", "token", 2)
    assert register.admit("b", "4", "other", 2)
    register.release("a", "1")
    assert register.admit("b", "3", "token", 2)


def test_what_a_dead_replica_held_lapses() -> None:
    clock = Clock()
    register = Register(clock)
    register.admit("dead", "1", "token", 1)
    clock.now = LAPSES_AFTER + 0.1
    assert register.admit("alive", "2", "token", 1)
    assert "dead" not in register.reports()


def test_a_session_that_resumes_a_lost_one_takes_its_place() -> None:
    register = Register()
    register.admit("dead", "1", "token", 1)
    assert not register.admit("alive", "2", "token", 1)
    assert register.admit("alive", "2", "token", 1, resumes="1")
    assert not register.admit("alive", "3", "token", 1, resumes="1")


def test_a_living_replica_is_told_to_end_what_was_resumed_elsewhere() -> None:
    register = Register()
    register.admit("a", "1", "token", 1)
    assert register.report("a", {"1": "token"}, []) == []
    assert register.admit("b", "2", "token", 1, resumes="1")
    assert register.report("b", {"2": "token"}, []) == []
    assert register.report("a", {"1": "token"}, []) == ["1"]
    assert not register.admit("a", "3", "token", 1)
    assert register.report("a", {}, []) == []
    assert register.resumed == {}


def test_who_may_not_open_resumes_nothing() -> None:
    register = Register()
    register.admit("a", "1", "token", 2)
    register.admit("a", "2", "token", 2)
    assert not register.admit("b", "3", "token", 1, resumes="1")
    assert register.report("a", {"1": "token", "2": "token"}, []) == []


def test_nobody_takes_the_place_of_somebody_elses_session() -> None:
    register = Register()
    register.admit("a", "1", "token", 1)
    register.admit("a", "2", "thief", 2, resumes="1")
    assert not register.admit("a", "3", "token", 1)


def test_a_report_does_not_overtake_the_admission_that_it_should_tell_of() -> None:
    class Slow(LocalRegistrar):
        async def admit(self, *call: Any) -> bool:
            admitted = await super().admit(*call)
            await asyncio.sleep(0.01)  # the answer is on its way
            return admitted

    async def scene() -> None:
        service = Service(ServeConfig(anonymizer="mcadams", slots=4), Slow())
        async with contextlib.AsyncExitStack() as calls:
            entering = asyncio.create_task(calls.enter_async_context(service.admitted("token", 1)))
            await asyncio.sleep(0)
            await asyncio.gather(entering, service.report())
            with pytest.raises(Refusal, match="has its 1 sessions"):
                await calls.enter_async_context(service.admitted("token", 1))
        service.stop()

    asyncio.run(scene())


def test_a_register_that_does_not_answer_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(LocalRegistrar):
        async def admit(self, *call: Any) -> bool:
            await asyncio.Event().wait()
            return False

    async def scene() -> None:
        service = Service(ServeConfig(anonymizer="mcadams", slots=4), Silent())
        async with service.admitted("token", 1) as session:
            assert service.holders == {session: "token"}
        assert service.holders == {}
        service.stop()

    monkeypatch.setattr("serve.service.REGISTER_ANSWERS_WITHIN", 0.05)
    asyncio.run(scene())


def test_calls_from_many_threads_are_counted_one_by_one() -> None:
    register = Register()
    with ThreadPoolExecutor(8) as threads:
        admitted = list(threads.map(lambda n: register.admit(str(n % 3), str(n), "token", 50), range(400)))
    assert sum(admitted) == 50


def test_a_register_that_was_restarted_learns_from_the_reports() -> None:
    register = Register()
    register.report("a", {"1": "token"}, [])
    assert not register.admit("b", "2", "token", 1)


def test_one_scrape_sees_all_replicas() -> None:
    meters = [Meters("a"), Meters("b")]
    meters[1].sessions.set(3)
    meters[0].latency.observe(0.05)
    text = render([one.collect() for one in meters]).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {sample.labels["replica"]: sample.value for sample in families["voxveil_sessions"].samples} == {
        "a": 0,
        "b": 3,
    }
    assert text.count("# TYPE voxveil_latency_seconds histogram") == 1
    assert 'voxveil_latency_seconds_bucket{le="0.06",replica="a"} 1.0' in text


def test_tokens_are_known_by_their_hash_alone() -> None:
    token, digest = new_token()
    known = Token(name="one", sha256=digest)
    assert token not in known.model_dump_json()
    assert find_token([known], token) is known
    assert find_token([known], token + "x") is None
    assert find_token([known], digest) is None
    assert find_token([known], "") is None
    assert hash_token(token) == digest
    assert len(token) >= 43  # 256 bits


def test_tokens_are_all_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    compared: list[str] = []
    constant = hmac.compare_digest

    def watched(known: str, given: str) -> bool:
        compared.append(known)
        return constant(known, given)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    (first, digest), (_, other) = new_token(), new_token()
    tokens = [Token(name="first", sha256=digest), Token(name="other", sha256=other)]
    assert find_token(tokens, first) is tokens[0]
    assert compared == [digest, other], "which token was right shows in the time that it takes"


def test_the_bearer_scheme_alone_is_read() -> None:
    assert bearer("Bearer abc") == "abc"
    assert bearer("bearer abc") == "abc"
    assert bearer("Basic abc") == ""
    assert bearer(None) == ""
