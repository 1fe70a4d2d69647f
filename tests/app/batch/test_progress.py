"""What stderr shows while a file of questions is answered."""

from __future__ import annotations

import io

from app.batch.progress import ProgressReport


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(out: io.StringIO, *, every: float = 0) -> str:
    progress = ProgressReport(5, done=2, out=out, every=every)
    progress.advance(is_error=False)
    progress.note("note: something")
    progress.advance(is_error=True)
    progress.close()
    return out.getvalue()


def test_a_screen_has_a_bar_that_begins_where_the_last_run_ended() -> None:
    shown = report(Screen())
    assert "2/5" in shown
    assert "4/5" in shown
    assert "errors: 1" in shown
    assert "note: something\n" in shown


def test_a_file_has_a_line_now_and_then() -> None:
    first, note, last = report(io.StringIO()).splitlines()
    assert first.startswith("3 of 5 answered, about ")
    assert note == "note: something"
    assert last.startswith("4 of 5 answered, errors: 1, about ")
    assert report(io.StringIO(), every=1000) == "note: something\n"
