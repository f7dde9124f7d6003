"""How far work is, in words: the same for whoever shows it."""

from __future__ import annotations

import pytest

from app.api.job_views import ProgressView
from app.children.work import JobProgress, NodeProgress
from app.jobs.works import Course
from app.progress import progress_words


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (JobProgress("measuring", 3, 12, unit="links"), "Measuring 3 of 12 links"),
        (JobProgress("measuring", 512, 2704, unit="tokens"), "Measuring 512 of 2,704 tokens"),
        (JobProgress("downloading", 1_200_000_000, 4_000_000_000, 1.2e8, 23.3),
         "Downloading 1.2 of 4 GB, 120 MB/s, 23 s left"),
        (NodeProgress("sending", 1, "a", 400_000_000, 800_000_000, 100e6, 100_000_000),
         "Sending 400 of 800 MB (100 MB were there), 100 MB/s, 4 s left"),
        (JobProgress("linking", 900_000_000, 900_000_000), "Linking"),
        (JobProgress("waiting", 0, 0), "Waiting"),
        (JobProgress("hashing", 0, 0), "Reading the weights"),
    ],
)  # fmt: skip
def test_progress_is_told_with_all_figures_that_are_known(now: JobProgress | NodeProgress, words: str) -> None:
    assert progress_words(now) == words
    if isinstance(now, JobProgress):
        assert ProgressView.of(now).in_words == words


def test_answers_that_are_read_anew_are_not_added_to_bytes() -> None:
    course = Course()
    course.told(NodeProgress("sending", 1, "a", 400, 800))
    together = course.told(NodeProgress("copying", 2, "b", 3, 12, unit="answers"))
    assert progress_words(together) == "Copying states 3 of 12 answers"
