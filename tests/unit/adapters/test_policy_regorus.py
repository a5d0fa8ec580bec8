"""The in-process engine against policies that loop, eat, flood, throw and die."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modelvault.access import Evaluation
from modelvault.adapters import policy_regorus
from modelvault.adapters.policy_regorus import MAX_ANSWER_BYTES, RegorusEngine, check
from modelvault.errors import Unavailable
from modelvault.policy import cases, shipped
from modelvault.policy.bundle import Bundle
from modelvault.policy.rego import Finding

HEAD = "package modelvault.authz\n\n"
ECHO = HEAD + 'decision := {"asked": input, "data": data.modelvault}'
# On input.bad each of these misbehaves; on anything else it answers {"fine": true}.
FINE = HEAD + 'decision := {"fine": true} if not input.bad\n\n'
LOOP = """
decision := {"n": n} if {
    input.bad
    r := numbers.range(1, 2000)
    n := count([1 | some a in r; some b in r; some c in r; a + b == c])
}
"""
EATER = """
decision := {"n": n} if {
    input.bad
    n := [x | some a in numbers.range(1, 3000); x := numbers.range(a, a + 3000)]
}
"""
FLOOD = 'decision := {"n": numbers.range(1, 1000000)} if input.bad\n'
NEGATED = """
decision := {"n": 1} if {
    input.bad
    not startswith(input.bad, "a")
}
"""
DEEP = """
decision := {"n": f(input.bad, 1000000)} if input.bad
f(x, n) := count(json.unmarshal(concat("", [s | some _ in numbers.range(1, n); s := "["])))
"""


def engine(text, **options):
    options.setdefault("deadline_s", 5.0)
    return RegorusEngine({"a.rego": text}, {"modelvault": {"x": 1}}, "sha256:r", **options)


def unavailable(asked, document):
    with pytest.raises(Unavailable) as caught:
        asked.evaluate(document)
    assert caught.value.code == "policy_unavailable"
    assert caught.value.__cause__ is None
    return caught.value.message


def pid(asked):
    return asked._child._process.pid


def test_it_answers_with_document_revision_and_an_id_of_its_own():
    with engine(ECHO) as asked:
        one, two = asked.evaluate({"a": [1, "é", None]}), asked.evaluate({})
    assert one == Evaluation(
        {"asked": {"a": [1, "é", None]}, "data": {"x": 1}}, "sha256:r", one.decision_id
    )
    assert len(one.decision_id) == 32
    assert one.decision_id != two.decision_id


def test_it_starts_at_the_first_question_and_stays():
    asked = engine(ECHO)
    assert asked._child is None
    asked.evaluate({})
    first = pid(asked)
    asked.evaluate({})
    assert pid(asked) == first
    asked.close()
    asked.close()
    assert asked._child is None
    asked.evaluate({})
    assert pid(asked) != first
    asked.close()


@pytest.mark.parametrize(
    ("rules", "options", "word"),
    [
        (LOOP, {"deadline_s": 0.4}, "within 0.4 s"),
        (EATER, {"memory_bytes": 96 << 20, "deadline_s": 30.0}, "died"),
        (FLOOD, {"deadline_s": 30.0}, "too long"),
        (DEEP, {"deadline_s": 30.0}, ""),
        ('decision := {"n": startswith(input.bad, "a")} if input.bad\n', {}, "error at a.rego:5"),
        (NEGATED, {}, "error at a.rego:8"),
        ('decision := {"n": 1} if input.bad\ndecision := {"n": 2} if input.bad\n', {}, "a.rego:6"),
        ('decision := "allow" if input.bad\n', {}, "isn't an object"),
        ("decision := true if input.bad\n", {}, "isn't an object"),
        ("decision := [1] if input.bad\n", {}, "isn't an object"),
        ("decision := null if input.bad\n", {}, "isn't an object"),
        ("\n", {}, "undefined"),
    ],
)
def test_a_policy_that_misbehaves_is_an_outage_and_the_next_question_is_answered(
    rules, options, word
):
    with engine(FINE + rules, **options) as asked:
        assert asked.evaluate({}).document == {"fine": True}
        assert word in unavailable(asked, {"bad": 7})
        assert asked.evaluate({}).document == {"fine": True}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (HEAD + "decision := (", "a.rego:3: expecting expression"),
        ("package other", "no module defines data.modelvault.authz.decision"),
        (HEAD + 'decision := http.send({"url": "http://192.0.2.1"})', "a.rego:3: http.send"),
        (HEAD + 'decision := http["send"]({"url": "http://192.0.2.1"})', "http.send"),
        (HEAD + 'decision := {"n": n} if n := count([1]) with count as http.send', "http.send"),
        (HEAD + 'decision := {"now": time.now_ns()}', "time.now_ns"),
        (HEAD + "f(x) := rand.intn(x, 3)\n\ndecision := {}", "rand.intn"),
        (
            HEAD + "decision := {} if { some x in [opa.runtime()] }",
            "opa.",
        ),
    ],
)
def test_modules_that_cant_or_mustnt_be_used_answer_nothing(text, word):
    with engine(text) as asked:
        assert word in unavailable(asked, {})
        assert asked._child is None


def test_data_in_the_place_of_the_rules_answers_nothing():
    forged = {"modelvault": {"authz": {"decision": {"decision": True}}}}
    with RegorusEngine({"a.rego": ECHO}, forged, "r") as asked:
        assert "where the rules of modelvault.authz are" in unavailable(asked, {})


@pytest.mark.parametrize("document", [{"a": float("nan")}, {"a": object()}, {"a": {1, 2}}])
def test_a_question_that_isnt_json_is_refused_before_it_is_asked(document):
    asked = engine(ECHO)
    assert "isn't JSON" in unavailable(asked, document)
    assert asked._child is None


def test_the_message_of_an_error_quotes_nothing_of_the_input():
    text = HEAD + 'decision := {"n": startswith(input.claims, "a")}'
    with engine(text) as asked:
        assert "canary" not in unavailable(asked, {"claims": ["canary"]})


def test_a_child_killed_from_outside_is_replaced():
    with engine(ECHO) as asked:
        asked.evaluate({})
        first = asked._child._process
        first.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
        assert asked.evaluate({"a": 1}).document["asked"] == {"a": 1}
        assert pid(asked) != first.pid


def test_no_child_is_left_behind():
    asked = engine(FINE + LOOP, deadline_s=0.2)
    asked.evaluate({})
    first = pid(asked)
    unavailable(asked, {"bad": 1})
    asked.evaluate({})
    second = pid(asked)
    asked.close()
    for gone in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(gone, 0)


def test_the_child_has_no_environment_no_files_and_its_limits(monkeypatch):
    monkeypatch.setenv("MODELVAULT_TOKEN", "canary")
    with (Path(__file__)).open() as held, engine(ECHO, memory_bytes=256 << 20) as asked:
        os.set_inheritable(held.fileno(), True)
        asked.evaluate({})
        proc = Path("/proc") / str(pid(asked))
        assert (proc / "environ").read_bytes() == b""
        assert sorted(path.name for path in (proc / "fd").iterdir()) == ["0", "1", "2"]
        assert (proc / "cwd").resolve() == Path("/")
        limits = (proc / "limits").read_text()
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert rows["Max address space"] == [str(256 << 20)] * 2
    assert rows["Max open files"] == ["3", "3"]
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max file size"] == ["0", "0"]
    assert int(rows["Max cpu time"][0]) <= 11


def test_the_child_ends_with_its_parent():
    script = (
        "import os; from modelvault.adapters.policy_regorus import RegorusEngine as E;"
        f"e = E({{'a.rego': {ECHO!r}}}, {{'modelvault': {{}}}}, 'r'); e.evaluate({{}});"
        "print(e._child._process.pid, flush=True); os._exit(0)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    stat = Path(f"/proc/{int(done.stdout)}")
    for _ in range(500):
        if not stat.exists() or "\nState:\tZ" in (stat / "status").read_text():
            return
        threading.Event().wait(0.01)
    pytest.fail("the worker lives on")


def test_many_threads_get_their_own_answers():
    with engine(ECHO) as asked:
        wrong: list[int] = []

        def work(name: int) -> None:
            for turn in range(40):
                question = {"name": name, "turn": turn}
                if asked.evaluate(question).document["asked"] != question:
                    wrong.append(name)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_who_waits_too_long_for_a_turn_gets_no_decision():
    with engine(ECHO, deadline_s=0.05) as asked, asked._turn:
        assert "busy" in unavailable(asked, {})


def test_both_sides_of_a_fork_may_ask():
    with engine(ECHO) as asked:
        asked.evaluate({})
        ours = pid(asked)
        with asked._turn:  # as if another thread was asking at that moment
            child = os.fork()
            if child == 0:
                try:
                    fine = asked.evaluate({"a": 2}).document["asked"] == {"a": 2}
                    theirs = pid(asked)
                    asked.close()
                    os._exit(0 if fine and theirs != ours else 1)
                finally:
                    os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert asked.evaluate({"a": 3}).document["asked"] == {"a": 3}
        assert pid(asked) == ours


def test_a_fork_before_the_first_question_is_fine_too():
    with engine(ECHO) as asked:
        asked._forked()
        assert asked.evaluate({}).document["asked"] == {}


def test_what_a_fork_does_in_the_new_process():
    with engine(ECHO) as asked:
        asked.evaluate({})
        theirs = asked._child
        policy_regorus._after_fork()
        try:
            assert theirs._process.returncode == 0  # let go, not ended
            os.kill(theirs._process.pid, 0)
            assert asked.evaluate({"a": 1}).document["asked"] == {"a": 1}
            assert pid(asked) != theirs._process.pid
        finally:
            os.kill(theirs._process.pid, signal.SIGKILL)
            os.waitpid(theirs._process.pid, 0)


def test_an_announced_flood_isnt_received():
    with engine(ECHO) as asked:
        asked.evaluate({})
        asked._child._receive = lambda size, end: struct.pack(">I", MAX_ANSWER_BYTES + 1)
        assert "died" in unavailable(asked, {})


def test_an_answer_in_drops_doesnt_stretch_the_deadline():
    hours = iter(range(0, 10**9, 3_600_000))
    with engine(ECHO, clock=lambda: next(hours)) as asked:
        assert "no answer within" in unavailable(asked, {})


def test_large_inputs_go_through_whole():
    document = {"files": [f"{n:0100}" for n in range(20_000)]}
    text = HEAD + 'decision := {"n": count(input.files), "last": input.files[19999]}'
    with engine(text) as asked:
        assert asked.evaluate(document).document == {"n": 20_000, "last": f"{19_999:0100}"}


def interrupted(*_):
    raise KeyboardInterrupt


def test_an_interrupted_question_leaves_no_answer_for_the_next(monkeypatch):
    with engine(ECHO) as asked:
        asked.evaluate({})
        monkeypatch.setattr(asked._child, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            asked.evaluate({"first": 1})
        assert asked.evaluate({"second": 2}).document["asked"] == {"second": 2}


@pytest.mark.parametrize("answer", [b"R[1]", b"Rnot json", b"", b"X", b"F{}"])
def test_a_worker_that_talks_nonsense_is_an_outage(monkeypatch, answer):
    monkeypatch.setattr(policy_regorus._Child, "ask", lambda *_: answer)
    with engine(ECHO) as asked:
        unavailable(asked, {})


def test_an_interpreter_that_cant_be_started_is_an_outage(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with engine(ECHO) as asked:
        assert "died" in unavailable(asked, {})


def test_without_regorus_there_is_no_engine(monkeypatch):
    monkeypatch.setattr(policy_regorus.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Unavailable, match="regorus"):
        engine(ECHO)


def test_every_shipped_case_through_the_child():
    assert [
        str(one) for one in cases.run(cases.shipped(), shipped.bundle(), RegorusEngine.of)
    ] == []


SAMPLE = cases.shipped()[0].input


def test_check_has_no_finding_about_what_is_shipped():
    assert check(shipped.bundle(), SAMPLE) == []


@pytest.mark.parametrize(
    ("site", "found"),
    [
        ("grants contains (", Finding("site/a.rego", 3, "bad_rego", "expecting expression")),
        (
            "denies contains 1 if time.now_ns() > 3",
            Finding(
                "site/a.rego", 2, "forbidden_builtin",
                "time.now_ns isn't among the builtins that policies may use",
            ),
        ),
        (
            "deny contains 1",
            Finding(
                "site/a.rego", 2, "unknown_site_rule",
                "nothing reads deny: a site has grants, denies, obligations and _helpers",
            ),
        ),
        (
            "denies contains 1 if no_such(3)",
            Finding("site/a.rego", 2, "evaluation_failed", "the engine can't evaluate this"),
        ),
        (
            "denies contains 1 if count([1 | some a in numbers.range(1, 3000); "
            "some b in numbers.range(1, 3000); some c in numbers.range(1, 30); a + b == c]) == 1",
            Finding("", 0, "evaluation_failed", "it takes too long, or kills the engine"),
        ),
    ],
)  # fmt: skip
def test_check_finds_what_is_wrong_with_site_rules(monkeypatch, site, found):
    monkeypatch.setattr(policy_regorus, "CHECK_S", 1.0)
    bundle = shipped.bundle()
    modules = bundle.modules | {"site/a.rego": f"package modelvault.site\n{site}\n"}
    assert check(Bundle(modules=modules, data=bundle.data), SAMPLE) == [found]


def test_check_finds_every_module_that_doesnt_parse():
    found = check(Bundle(modules={"a.rego": "package (", "b.rego": "nothing"}, data={}), SAMPLE)
    assert [(one.file, one.code) for one in found] == [
        ("a.rego", "bad_rego"),
        ("b.rego", "bad_rego"),
    ]
