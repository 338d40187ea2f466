import os

import pytest

from files.whole_file import remove_leftovers, whole_file, write_whole


def test_at_every_instant_of_a_write_one_whole_file_has_a_name(tmp_path, monkeypatch):
    path, keep = tmp_path / "last", tmp_path / "previous"
    seen = []

    def look():
        seen.append({file.read_text() for file in (path, keep) if file.exists()})

    for name in ("replace", "fsync"):
        original = getattr(os, name)

        def spy(*places, original=original):
            look()
            original(*places)
            look()

        monkeypatch.setattr(os, name, spy)
    for text in ("one", "two", "three"):
        with whole_file(path, keep=keep) as unfinished:
            unfinished.write_text(text)
    assert path.read_text() == "three"
    assert keep.read_text() == "two"
    after_one = seen[seen.index({"one"}) :]
    assert len(after_one) > 10
    assert all(whole and whole <= {"one", "two", "three"} for whole in after_one)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole("half of it \ud800", path)
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "old"


def test_leftovers_of_dead_processes_are_removed_but_not_those_of_the_living(tmp_path):
    with whole_file(tmp_path / "a") as living:
        living.write_text("")
        dead = living.with_name(living.name.replace(str(os.getpid()), "4194305"))
        elsewhere = living.with_name(f"a.other-host.{4194305}.tmp")
        old = living.with_name("a.other-host.7.tmp")
        for path in (dead, elsewhere, old):
            path.write_text("")
        os.utime(old, (0, 0))
        remove_leftovers(tmp_path)
        assert living.exists()
        assert elsewhere.exists()
        assert not dead.exists()
        assert not old.exists()
