"""`openllm chat` from a script, and the parts of its terminal form that need no terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import open_llm_client
from open_llm_client import Client
from openllm.cli import main
from openllm.cli.chat_session import ChatSession, CommandError
from openllm.cli.line_input import LineInput, history_path, read_message
from openllm.errors import OpenLLMError
from tests.unit.client.loopback_peer import Peer, event, failing, sending

ANSWER = {"role": "assistant", "content": "Hello, world\u2028!"}


def run(peer: Peer, script: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["chat", "--url", peer.url, *arguments], input=script)


@pytest.fixture
def client(peer: Peer) -> Iterator[Client]:
    with open_llm_client.create(peer.url, max_retries=0) as client:
        yield client


@pytest.fixture
def session(client: Client) -> ChatSession:
    return ChatSession(client, {})


def test_each_line_is_a_message_and_stdout_has_the_replies_alone(peer: Peer) -> None:
    result = run(peer, "Hi\n\nMore\n")
    assert result.exit_code == 0
    assert result.stdout == "Hello, world\u2028!\n" * 2
    assert result.stderr == ""
    first = {"role": "user", "content": "Hi"}
    assert peer.bodies == [
        None,
        {"messages": [first]},
        {"messages": [first, ANSWER, {"role": "user", "content": "More"}]},
    ]


def test_options_reach_the_server(peer: Peer) -> None:
    run(peer, "Hi\n", "--temperature", "0", "--system", "Be brief.", "--model", "large")
    assert peer.bodies[-1] == {
        "model": "large",
        "temperature": 0.0,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ],
    }


def test_a_script_ends_at_its_first_error(peer: Peer) -> None:
    peer.answers.append(sending(b'{"data": [{"id": "small"}]}', "application/json"))
    peer.answers.append(failing(400, "too long"))
    result = run(peer, "Hi\nMore\n")
    assert result.exit_code == 2
    assert result.stderr == "Error: too long [HTTP 400, request req-7]\n"
    assert len(peer.requests) == 2


def test_no_server_is_said_before_the_first_message() -> None:
    result = CliRunner().invoke(main, ["chat", "--url", "http://127.0.0.1:9"], input="Hi\n")
    assert result.exit_code == 1
    assert "openllm start" in result.stderr


def test_a_model_that_is_not_served_is_said_at_once(peer: Peer) -> None:
    result = run(peer, "Hi\n", "--model", "huge")
    assert result.exit_code == 2
    assert "no model 'huge' is served; there are: small, large" in result.stderr


def test_exit_and_unknown_commands(peer: Peer) -> None:
    assert run(peer, "/exit\nHi\n").exit_code == 0
    assert len(peer.requests) == 1
    result = run(peer, "/quit\n")
    assert result.exit_code == 2
    assert "no command /quit: /help lists them" in result.stderr


def test_help_names_every_command(session: ChatSession, capsys: pytest.CaptureFixture[str]) -> None:
    session.take("/help")
    shown = capsys.readouterr().err
    assert all(name in shown for name in session._commands)


def test_reset_forgets_and_system_stays(session: ChatSession, peer: Peer) -> None:
    for text in ("/system Be brief.", "Hi", "/reset", "More"):
        session.take(text)
    instruction = {"role": "system", "content": "Be brief."}
    assert peer.bodies[-1]["messages"] == [instruction, {"role": "user", "content": "More"}]
    session.take("/system")
    assert session.conversation() == session.messages


def test_model_switches_between_the_served(session: ChatSession, peer: Peer) -> None:
    session.take("/model large")
    session.take("Hi")
    assert peer.bodies[-1]["model"] == "large"
    with pytest.raises(CommandError, match="small, large"):
        session.take("/model huge")


def test_a_failed_turn_leaves_the_conversation_as_it_was(session: ChatSession, peer: Peer) -> None:
    session.take("Hi")
    before = session.conversation()
    peer.answers.append(sending(event({"text": "Hel"}) + event({"error": {"message": "no"}})))
    with pytest.raises(open_llm_client.ServerError):
        session.take("More")
    assert session.conversation() == before


def test_a_leading_blank_sends_what_looks_like_a_command(session: ChatSession, peer: Peer) -> None:
    session.take(" /exit means what?")
    assert peer.bodies[-1]["messages"][0]["content"] == "/exit means what?"
    assert not session.over


def test_stats_are_shown_on_request(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    ChatSession(client, {}).take("Hi")
    assert capsys.readouterr().err == ""
    ChatSession(client, {}, stats=True).take("Hi")
    assert "/s]" in capsys.readouterr().err


def test_save_as_json(session: ChatSession, tmp_path: Path) -> None:
    session.take("/system Be brief.")
    session.take("Hi")
    session.take(f"/save {tmp_path}/a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"messages": session.conversation()}


def test_save_as_markdown(session: ChatSession, tmp_path: Path) -> None:
    session.take("Hi")
    session.take(f'/save "{tmp_path}/two words.md"')
    saved = (tmp_path / "two words.md").read_text()
    assert saved == "**user**\n\nHi\n\n**assistant**\n\nHello, world\u2028!\n"


def test_save_chooses_a_name(
    session: ChatSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    session.take("Hi")
    session.take("/save")
    assert len(list(tmp_path.glob("chat-*.md"))) == 1


def test_save_replaces_only_by_force(session: ChatSession, tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("precious")
    session.take("Hi")
    with pytest.raises(CommandError, match="/save --force"):
        session.take(f"/save {path}")
    assert path.read_text() == "precious"
    session.take(f"/save --force {path}")
    assert "Hello" in path.read_text()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("chat.txt", "ends neither in .json nor in .md"),
        ("nowhere/chat.md", "cannot write nowhere/chat.md"),
        ("~no-such-user/chat.md", "cannot write ~no-such-user/chat.md"),
        ("a.md b.md", "takes one file"),
        ("'a.md", "quotation"),
    ],
)
def test_save_says_why_not(
    session: ChatSession, argument: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OpenLLMError, match=said):
        session.take(f"/save {argument}")


def lines(*given: str) -> Callable[[str], str]:
    rest = iter(given)

    def read(_: str) -> str:
        for line in rest:
            return line
        raise EOFError

    return read


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (["one\\"], "one"),
        (['"""', "one", "", "two", '"""'], "one\n\ntwo"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""one"""'], "one"),
        (['"""one', "two"], "one\ntwo"),
        ([""], ""),
    ],
)
def test_messages_of_several_lines(typed: list[str], message: str) -> None:
    assert read_message(lines(*typed)) == message


def test_end_of_input_is_told() -> None:
    with pytest.raises(EOFError):
        read_message(lines())


def test_history_follows_the_xdg_directories(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_path() == tmp_path / "openllm" / "chat_history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_path() == tmp_path / ".local" / "state" / "openllm" / "chat_history"


def test_a_user_without_a_home_has_no_history(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(_: object) -> None:
        raise KeyError("uid")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lost)
    reading = LineInput()
    reading.interactive = True
    with reading:
        pass
    assert "the input history was not saved: Could not determine home" in capsys.readouterr().err
