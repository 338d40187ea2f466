"""A disk that is full, or a folder that is gone, is one line; what is finished stays."""

import errno
import shutil
import subprocess

import pytest
from outcomes import assert_same_outcome

import main
from callbacks.progress import RunProgress


@pytest.fixture
def small_disk(tmp_path):
    """A file system of four megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def in_second_fold(monkeypatch):
    """Return a function that does something once, in the second fold."""

    def arrange(act):
        def do(self, trainer, *rest):
            if trainer.datamodule.fold == 1 and trainer.current_epoch == 1:
                act()

        monkeypatch.setattr(RunProgress, "on_train_batch_end", do)

    return arrange


def _fill(folder):
    with (folder / "filler").open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017


def _only_error(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    (line,) = [line[line.index("error: ") :] for line in lines if "error: " in line]
    return line


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    write_cohort, run_verb, tmp_path, small_disk, in_second_fold, capsys
):
    table = write_cohort(12)
    assert run_verb("finetune", table, "whole") == 0
    in_second_fold(lambda: _fill(small_disk))
    capsys.readouterr()
    assert run_verb("finetune", table, "small/run") == 2
    assert "No space left on device" in _only_error(capsys)
    assert (small_disk / "run/repeat0_fold0/finished.json").is_file()
    assert not (small_disk / "run/repeat0_fold1/finished.json").exists()
    in_second_fold(lambda: None)
    (small_disk / "filler").unlink()
    assert run_verb("finetune", table, "small/run") == 0
    assert "1 of 3 folds are finished already" in capsys.readouterr().out
    assert_same_outcome(tmp_path / "whole", small_disk / "run")


@pytest.mark.slow
def test_a_lost_run_folder_is_one_line(write_cohort, run_verb, tmp_path, in_second_fold, capsys):
    in_second_fold(lambda: shutil.rmtree(tmp_path / "run", ignore_errors=True))
    assert run_verb("finetune", write_cohort(12), "run") == 2
    assert str(tmp_path / "run") in _only_error(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded."),
        (OSError(errno.EROFS, "Read-only file system", "x/y"), "Read-only file system: x/y."),
    ],
)
def test_what_a_disk_refuses_is_one_line(monkeypatch, capsys, error, line):
    def refuse(*_):
        raise error

    monkeypatch.setattr(main, "_run", refuse)
    assert main.main(["finetune"]) == 2
    assert _only_error(capsys).startswith(f"error: {line}")
    with pytest.raises(OSError, match=line[:10]):
        main.main(["finetune", "--debug"])
