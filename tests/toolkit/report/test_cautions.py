"""What a report says of the data before its numbers: where it begins to say it."""

import pytest

from manyhot.toolkit.report.cautions import of_few_known


@pytest.mark.parametrize(("few", "rows", "said"), [(0, 10, 0), (1, 100, 1), (1, 101, 0), (3, 300, 1), (2, 201, 0)])
def test_a_hundredth_of_rows_with_unknown_words_is_worth_a_warning(few, rows, said):
    assert len(of_few_known(few, rows)) == said
