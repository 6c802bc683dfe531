"""Claims about the section "What was tried" of results/reliability.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from reliability.tried import CASES, HEADING, section, with_section

PAGE = Path(__file__).resolve().parent.parent / "results" / "reliability.md"


def test_the_page_holds_what_the_file_of_cases_says() -> None:
    page = PAGE.read_text("utf-8")
    assert page.count(HEADING) == 1
    assert with_section(page, CASES.read_text("utf-8")) == page


def test_a_section_takes_the_place_of_the_one_before() -> None:
    cases = "# A\na | b | c\n\n# B\nd | `ls|head` | f\n# A\ng | h | i\n"
    page = with_section(with_section("# Page\n\n| x |\n", "# Z\nold | old | old\n"), cases)
    assert page == f"# Page\n\n| x |\n\n{section(cases)}"
    assert "old" not in page
    rows = [line for line in page.splitlines() if line.startswith(("| a", "| d", "| g", "###"))]
    assert rows == ["### A", "| a | b | c |", "| g | h | i |", "### B", "| d | `ls\\|head` | f |"]


@pytest.mark.parametrize("text", ["a | b | c", "# A\na | b", "# A\na | b | c | d", "# A\na |  | c"])
def test_a_line_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line "):
        section(text)
