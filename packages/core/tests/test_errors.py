"""Errors for users: one line, an exit code, the traceback only when asked for."""

import pytest
import torch

from jepa_core.errors import (
    CollapseError,
    ConfigError,
    DataError,
    DivergenceError,
    LaunchError,
    LostProcessError,
    StorageError,
    UserError,
    print_error,
    resource_error,
    value_errors_are_users,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError, 2),
        (ConfigError, 2),
        (DataError, 2),
        (LaunchError, 2),
        (DivergenceError, 3),
        (CollapseError, 4),
        (LostProcessError, 6),
    ],
)
def test_exit_codes(error: type[UserError], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_error(error("what went wrong")) == code
    assert capsys.readouterr().err == "jepa: what went wrong\n"


def test_own_exit_code_leaves_the_class_alone() -> None:
    assert UserError("x", exit_code=7).exit_code == 7
    assert UserError("x").exit_code == 2


def test_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(ConfigError("first\n  second\tthird"))
    assert capsys.readouterr().err == "jepa: first second third\n"


def test_traceback_on_demand(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_TRACEBACK", "1")
    with pytest.raises(ConfigError) as caught, value_errors_are_users():
        raise ValueError("the cause")
    print_error(caught.value)
    lines = capsys.readouterr().err.splitlines()
    assert "ValueError: the cause" in lines and lines[-1] == "jepa: the cause"


def test_only_value_errors_are_handed_on() -> None:
    with pytest.raises(DataError, match="bad root"), value_errors_are_users(DataError):
        raise ValueError("bad root")
    with pytest.raises(KeyError), value_errors_are_users():
        raise KeyError("a bug stays a bug")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(28, "No space left on device"), StorageError, "No space left"),
        (MemoryError(), LaunchError, "trainer.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory."), LaunchError, "trainer.batch_size"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), LaunchError, "data.workers"),
        (RuntimeError("[pair.cc:553] Connection closed by peer [10.0.0.2]:33"), LostProcessError, "resume=auto"),
        (RuntimeError("Timed out waiting 30000ms for recv operation"), LostProcessError, "another process"),
    ],
)
def test_what_a_machine_lacks_is_an_error_for_users(error: Exception, kind: type[UserError], words: str) -> None:
    lacking = resource_error(error)
    assert type(lacking) is kind and words in str(lacking)
    assert resource_error(RuntimeError("shapes do not match")) is None


def test_processes_speak_once_of_settings_and_each_of_its_own_trouble(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    assert print_error(ConfigError("same everywhere")) == 2
    assert capsys.readouterr().err == ""
    print_error(DataError("my disk"))
    assert capsys.readouterr().err == "jepa (process 3): my disk\n"
