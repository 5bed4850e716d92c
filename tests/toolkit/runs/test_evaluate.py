"""Numbers of a file whose labels are not quite those of training, by hand."""

import numpy as np
import pytest
import scipy.sparse as sp

from manyhot import multilabel_metrics
from manyhot.labels import CardinalityRange
from manyhot.toolkit.runs.evaluate import Aligned, align, measure

ANY = CardinalityRange(0, 10)
# Decided as a | b | a b | nothing.
LOGITS = np.array([[2.0, -1.0], [-3.0, 1.0], [1.0, 0.5], [-1.0, -2.0]], dtype=np.float32)


def measured(targets, names, counts=(10, 3), cardinality=ANY):
    aligned = align(np.array(targets), names, ["a", "b"])
    return measure(LOGITS, aligned, cardinality=cardinality, train_counts=np.array(counts, dtype=float)), aligned


def test_columns_are_put_in_the_order_of_training():
    targets = np.array([[1, 0, 1], [0, 1, 0]])
    aligned = align(sp.csr_array(targets), ["c", "a", "b"], ["a", "b", "c", "d"])
    np.testing.assert_array_equal(aligned.targets, [[False, True, True, False], [True, False, False, False]])
    assert aligned.unseen.shape == (2, 0)
    assert aligned.unseen_names == []
    assert aligned.warning() is None


@pytest.mark.parametrize("layout", [np.array, sp.csr_array, sp.csc_array, sp.csr_matrix], ids=lambda f: f.__name__)
def test_unknown_labels_are_kept_apart(layout):
    targets = layout(np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 0, 0, 0]]))
    aligned = align(targets, ["x", "unused", "a", "y"], ["a", "b"])
    np.testing.assert_array_equal(aligned.targets, [[True, False], [True, False], [False, False]])
    np.testing.assert_array_equal(aligned.unseen, [[True, True], [False, False], [True, False]])
    assert aligned.unseen_names == ["x", "y"]


def test_stored_zeros_are_no_labels():
    cells = sp.csr_array((np.array([1, 0, 0]), ([0, 0, 1], [0, 1, 2])), shape=(2, 3))
    assert cells.nnz == 3
    aligned = align(cells, ["a", "b", "x"], ["a", "b"])
    np.testing.assert_array_equal(aligned.targets, [[True, False], [False, False]])
    assert aligned.unseen_names == []


def test_known_labels_alone_are_measured_as_they_are():
    targets = [[0, 1], [1, 0], [1, 1], [0, 0]]
    metrics, aligned = measured(targets, ["b", "a"])
    preds = LOGITS > 0
    assert metrics == multilabel_metrics(preds, aligned.targets, LOGITS, train_counts=[10, 3])
    assert metrics["micro_f1"] == metrics["macro_f1"] == metrics["exact_match"] == 1


def test_unknown_labels_are_misses_in_every_number():
    # Row 0 is a x, row 1 is b, row 2 is a x y, row 3 is nothing.
    metrics, aligned = measured([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]], ["a", "b", "x", "y"])
    assert aligned.unseen_names == ["x", "y"]
    # True positives a a b; false positive b in row 2; false negatives x x y.
    assert metrics["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 3))
    # a 1, b 2*1/(2+1), x 0, y 0
    assert metrics["macro_f1"] == pytest.approx((1 + 2 / 3 + 0 + 0) / 4)
    assert metrics["samples_f1"] == pytest.approx((2 / 3 + 1 + 2 / 5 + 0) / 4)
    assert metrics["exact_match"] == 2 / 4
    assert metrics["hamming_loss"] == pytest.approx(4 / 16)
    assert metrics["labels_per_row_true"] == 6 / 4
    assert metrics["labels_per_row_predicted"] == 4 / 4
    assert metrics["precision_at_1"] == pytest.approx(3 / 4)
    # Unknown labels share the last place of every row's ranking, after all known ones.
    assert metrics["lrap"] == pytest.approx(((1 + 2 / 4) / 2 + 1 + (1 + 3 / 4 + 3 / 4) / 3 + 1) / 4)
    assert metrics["labels"] == 2
    assert metrics["rows"] == 4
    # Groups are of training: 10 rows are medium, 3 are rare, x and y are in none.
    assert metrics["medium_f1"] == 1
    assert metrics["rare_f1"] == pytest.approx(2 / 3)
    assert metrics["head_f1"] is None


def test_only_unknown_labels():
    metrics, _ = measured([[1], [1], [0], [0]], ["x"])
    assert metrics["micro_f1"] == metrics["macro_f1"] == 0
    assert metrics["labels_per_row_true"] == 0.5
    assert metrics["labels_per_row_predicted"] == 1
    assert metrics["exact_match"] == 1 / 4


def test_a_known_label_that_the_file_lacks_has_f1_zero():
    metrics, _ = measured([[1], [0], [1], [0]], ["a"])
    assert metrics["macro_f1"] == pytest.approx((1 + 0) / 2)
    assert metrics["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 2))


def test_decisions_keep_to_the_range():
    targets = [[1, 0], [0, 1], [1, 0], [1, 0]]
    metrics, _ = measured(targets, ["a", "b"], cardinality=CardinalityRange(1, 1))
    assert metrics["empty_rows"] == 0
    assert metrics["labels_per_row_predicted"] == 1
    assert metrics["exact_match"] == 1
    metrics, _ = measured(targets, ["a", "b"])
    assert metrics["empty_rows"] == 1 / 4
    assert metrics["exact_match"] == 2 / 4


def test_the_warning_names_and_counts():
    _, aligned = measured([[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0]], ["a", "x", "y"])
    assert aligned.warning() == (
        "2 labels of this file are unknown to the run, 4 times: x (3), y (1). "
        "They count as missed: false negatives in micro-F1, F1 0 in macro-F1."
    )


def test_the_warning_of_one_label_and_of_classes():
    _, aligned = measured([[1, 1], [1, 0], [1, 0], [0, 0]], ["a", "x"])
    assert aligned.warning() == (
        "1 label of this file is unknown to the run, 1 time: x (1). "
        "It counts as missed: false negatives in micro-F1, F1 0 in macro-F1."
    )
    said = aligned.warning(multiclass=True)
    assert said is not None
    assert said.startswith("1 class of this file is unknown to the run, 1 time: x (1). It counts as missed: wrong in")


def test_the_warning_names_the_ten_most_frequent():
    unknown = np.tri(12, 12, dtype=bool)  # label 0 twelve times ... label 11 once
    aligned = Aligned(np.zeros((12, 2), dtype=bool), unknown, [f"l{i}" for i in range(12)])
    said = aligned.warning()
    assert said is not None
    assert "12 labels of this file are unknown to the run, 78 times: l0 (12), l1 (11), " in said
    assert "l9 (3) and 2 more." in said
    assert "l10" not in said
