"""Texts and numbers to the matrix: every block against scikit-learn or NumPy called directly."""

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models import term_blocks as module
from manyhot.toolkit.models import term_counts
from manyhot.toolkit.models.features import Features
from manyhot.toolkit.models.term_blocks import TextBlock, token_pattern
from manyhot.toolkit.models.term_counts import count_terms, most_frequent
from manyhot.toolkit.read.examples import Examples

WORDS = "red fox blue bird green tree runs sings grows under over the a of and with small large very old".split()
CHINESE = ["今天天气很好", "明天天气不好", "我今天去北京", "他明天去上海", "北京的天气很好"]
JAPANESE = ["今日はとてもいい天気です", "明日は東京に行きます", "カタカナとひらがな", "東京の天気はいいです"]
THAI = ["วันนี้อากาศดีมาก", "พรุ่งนี้ฝนจะตก", "ฉันรักประเทศไทย", "อากาศดีที่ประเทศไทย"]


def sentences(rows, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(rows)]


def of_texts(texts):
    return Examples("f.csv", list(texts), None, None, [])


def of_numbers(numbers, texts=None):
    return Examples("f.csv", texts, numbers, None, [])


def fitted(examples):
    found, X = Features.fit_transform(examples)
    again = found.transform(examples)
    np.testing.assert_array_equal(dense(X), dense(again))
    return found, X


def dense(X: Any) -> np.ndarray:
    return X if isinstance(X, np.ndarray) else X.toarray()


def directly(train, new, **parameters):
    vectorizer: Any = TfidfVectorizer(sublinear_tf=True, **parameters).fit(train)
    return vectorizer.transform(new).toarray(), vectorizer.get_feature_names_out().tolist()


# Text


@pytest.mark.parametrize("rows", [30, 250])
def test_words_and_weighted_pairs_are_those_of_scikit_learn(rows):
    train, new = sentences(rows), [*sentences(20, seed=1), "", "entirely unseen wordlist", "red zzz fox"]
    found = Features.fit(of_texts(train))
    few = rows < module.FEW_ROWS
    words = {"token_pattern": r"(?u)\b\w+\b"}
    singles, single_terms = directly(train, new, min_df=1 if few else module.MIN_DF, **words)
    pairs, pair_terms = directly(train, new, min_df=1 if few else module.PAIR_MIN_DF, ngram_range=(2, 2), **words)
    assert [block.terms for block in found.blocks] == [single_terms, pair_terms]
    X = found.transform(of_texts(new))
    assert X.dtype == np.float32
    assert found.size == X.shape[1] == len(single_terms) + len(pair_terms)
    np.testing.assert_allclose(dense(X), np.hstack([singles, module.PAIR_WEIGHT * pairs]), atol=1e-6)
    # Rows of length 1 in each block, before the weight.
    np.testing.assert_allclose(np.linalg.norm(dense(X)[:20, : len(single_terms)], axis=1), 1, atol=1e-5)
    assert found.describe() == f"{len(single_terms):,} words + {len(pair_terms):,} word pairs"


@pytest.mark.parametrize("rows", [30, 250])
def test_parts_of_words_are_those_of_scikit_learn(rows):
    train, new = sentences(rows), [*sentences(20, seed=1), "", "xyz", "Red  FOX\tfoxes. a", "ẞtraße 👍"]
    found, X = Features.fit_transform(of_texts(train), characters=True)
    plain = Features.fit(of_texts(train))
    few = rows < module.FEW_ROWS
    parameters = {"analyzer": "char_wb", "ngram_range": (3, 5), "max_features": module.CHARACTER_TERMS}
    parts, terms = directly(train, new, min_df=1 if few else module.CHARACTER_MIN_DF, **parameters)
    assert [block.terms for block in found.blocks[:2]] == [block.terms for block in plain.blocks]
    assert found.blocks[2].terms == terms
    expected = np.hstack([dense(plain.transform(of_texts(new))), module.CHARACTER_WEIGHT * parts])
    np.testing.assert_allclose(dense(found.transform(of_texts(new))), expected, atol=1e-6)
    np.testing.assert_array_equal(dense(found.transform(of_texts(train))), dense(X))
    assert found.describe() == f"{plain.describe()} + {len(terms):,} parts of words"


def test_where_rows_have_too_many_parts_of_words_the_most_frequent_go(monkeypatch):
    train = sentences(250)
    every, _ = directly(train, train, min_df=3, analyzer="char_wb", ngram_range=(3, 5))
    texts_of = (every > 0).sum(0)
    monkeypatch.setattr(module, "CHARACTER_NONZEROS", 40)
    block = Features.fit(of_texts(train), characters=True).blocks[2]
    terms = directly(train, train, min_df=3, analyzer="char_wb", ngram_range=(3, 5))[1]
    kept = np.isin(terms, block.terms)
    assert texts_of.sum() > 40 * 250 >= texts_of[kept].sum() > 39 * 250
    assert texts_of[kept].max() <= texts_of[~kept].min()


@pytest.mark.parametrize(("distinct", "blocks"), [(module.LONG_TEXT, 3), (module.LONG_TEXT + 1, 2)])
def test_long_texts_have_no_parts_of_words(distinct, blocks):
    # Twice each: what is counted are distinct words.
    train = [" ".join(f"word{(i + j) % 100}" for j in range(distinct)) for i in range(200)]
    texts = of_texts([f"{text} {text}" for text in train])
    assert len(Features.fit(texts, characters=True).blocks) == blocks


def test_scripts_without_spaces_have_characters_alone():
    assert len(Features.fit(of_texts(CHINESE), characters=True).blocks) == 1


def test_both_sides_of_few_rows_are_exercised():
    assert 30 < module.FEW_ROWS <= 250


def test_single_letters_and_digits_are_words():
    found = Features.fit(of_texts(["a 7 b", "c 8 a"]))
    assert found.blocks[0].terms == ["7", "8", "a", "b", "c"]


# Each word holds marks, which `\\w` does not.
MARKED = {
    "Devanagari": ["मुस्कान", "सेवा", "सब्ज़ी", "क़ीमत"],
    "Bengali": ["বাংলা", "ভাষা"],
    "Tamil": ["தமிழ்", "மொழி"],
    "Arabic": ["مَكْتَب", "كِتاب"],
    "Persian with a joiner": ["می\u200cخواهم", "کتاب\u200cها"],
    "Hebrew": ["שָׁלוֹם", "עוֹלָם"],
    "Sinhala": ["සිංහල", "ශ්\u200dරී"],
    "decomposed Latin": ["nai\u0308ve", "cafe\u0301"],
    "Thai among words": ["ดี", "ไทยดี"],
    "emoji": ["👍", "❤", "🇩🇪", "🇫🇷"],
    "letters, digits and underscores": ["one", "x_1", "2"],
}


@pytest.mark.parametrize("words", MARKED.values(), ids=MARKED)
def test_words_of_every_script_are_whole(words):
    assert re.findall(token_pattern(), " ".join(words)) == words
    assert re.findall(token_pattern(), ",".join(reversed(words))) == words[::-1]


def test_words_are_those_of_before_where_there_are_no_marks_and_no_emoji():
    text = "It's 3.5 naïve cafés, x_1: 东京 Москва don't e-mail a@b.c — ok… λόγος √2 ½"
    assert re.findall(token_pattern(), text) == re.findall(r"(?u)\b\w+\b", text)


def test_emoji_are_words_without_colour_and_style():
    assert re.findall(token_pattern(), "ok👍🏽👍 ❤️‍🔥 👨‍👩‍👧") == ["ok", "👍", "👍", "❤", "🔥", "👨", "👩", "👧"]


def test_different_words_of_one_script_have_different_features():
    # Cut at their vowel signs, all four are the letters म and न.
    texts = ["मन मन", "मान मान", "मौन मौन", "मीन मीन"] * 2
    features = Features.fit(of_texts(texts)).transform(of_texts(texts)).toarray()
    assert len(np.unique(features, axis=0)) == 4


KINDS = [
    *({"analyzer": "word", "token_pattern": token_pattern(), "ngram_range": (n, n)} for n in (1, 2)),
    {"analyzer": "word", "token_pattern": r"(?u)\b(\w)\w*\b", "ngram_range": (1, 1)},
    {"analyzer": "char", "ngram_range": (1, 3)},
    {"analyzer": "char_wb", "ngram_range": (3, 5)},
    {"analyzer": "char_wb", "ngram_range": (1, 2)},
]


@pytest.mark.parametrize("given", [False, True], ids=["all terms", "a vocabulary"])
def test_long_texts_are_counted_a_piece_at_a_time_to_the_same_numbers(monkeypatch, given):
    rng = np.random.default_rng(0)
    words = ["ΟΔΟΣ", "a", "Straße", "x\ty", "don't", "मान", "👍🏽", "ab", "abc", "abcdefgh", "\u2028", "İ"]
    texts = [" \n "[: i % 3].join(rng.choice(words, 40 * i)) for i in range(6)] + ["", " ", "one" * 50]
    whole = count_terms(texts, KINDS)
    vocabularies = [{term: i for i, term in enumerate(sorted(v)[::2])} for v, *_ in whole] if given else None
    whole = count_terms(texts, KINDS, vocabularies)
    monkeypatch.setattr(term_counts, "LONG", 60)
    monkeypatch.setattr(term_counts, "WORDS_AT_ONCE", 3)
    for kind, (terms, counts, words), (those, parts, same) in zip(
        KINDS, whole, count_terms(texts, KINDS, vocabularies), strict=True
    ):
        assert terms == those
        np.testing.assert_array_equal(counts.toarray(), parts.toarray())
        assert counts.nnz == parts.nnz, kind
        assert words.tolist() == same.tolist()
        if not given:
            direct: Any = CountVectorizer(**kind, vocabulary=terms).fit_transform(texts)
            np.testing.assert_array_equal(counts.toarray(), direct.toarray())


def test_runs_fitted_before_keep_their_pattern():
    texts = ["मान नाम", "मान नाम"]
    kind = {"analyzer": "word", "token_pattern": r"(?u)\b\w+\b", "ngram_range": (1, 1), "sublinear_tf": True}
    terms, counts = most_frequent(count_terms(texts, [kind])[0], 1, 100)
    old = TextBlock.fit(counts, terms, kind, 1.0)
    state, arrays = Features(blocks=[old]).state()
    restored = Features.from_state(json.loads(json.dumps(state)), arrays)
    assert restored.blocks[0].terms == ["न", "म"]
    rows = of_texts(texts)
    np.testing.assert_array_equal(dense(restored.transform(rows)), dense(Features(blocks=[old]).transform(rows)))


@pytest.mark.parametrize("texts", [CHINESE, JAPANESE, THAI], ids=["Chinese", "Japanese", "Thai"])
def test_scripts_without_spaces_get_character_grams_and_it_is_said(texts):
    found, X = fitted(of_texts(texts))
    expected, terms = directly(texts, texts, analyzer="char", ngram_range=(1, 3))
    assert [block.terms for block in found.blocks] == [terms]
    assert {len(term) for term in terms} == {1, 2, 3}
    np.testing.assert_allclose(dense(X), expected, atol=1e-6)
    assert found.describe() == f"{len(terms):,} character 1-3-grams"


@pytest.mark.parametrize(
    "texts",
    [["오늘 날씨가 좋다", "내일 비가 온다"], ["اليوم الطقس جميل", "غدا مطر"], ["Сегодня хорошо", "завтра дождь"]],
    ids=["Korean", "Arabic", "Russian"],
)
def test_scripts_with_spaces_get_words(texts):
    found = Features.fit(of_texts(texts))
    assert found.blocks[0].terms == sorted({word.lower() for text in texts for word in text.split()})
    assert "character" not in found.describe()


def test_most_letters_decide_about_the_script():
    assert module.writes_without_spaces(["hello 今天天气很好"])
    assert not module.writes_without_spaces(["hello world 今天天气很好"])
    assert not module.writes_without_spaces(["123 456", ""])
    assert not module.writes_without_spaces([])


def test_unseen_words_and_empty_texts_are_zero_rows():
    found = Features.fit(of_texts(sentences(20)))
    X = dense(found.transform(of_texts(["", "never seen before", "red"])))
    assert X.shape == (3, found.size)
    assert not X[:2].any()
    assert X[2].sum() == pytest.approx(1)
    assert found.blocks[0].terms[int(X[2].argmax())] == "red"


def test_empty_training_texts_are_rows_like_others():
    texts = [*sentences(10), "", " "]
    found, X = fitted(of_texts(texts))
    assert X.shape == (12, found.size)
    assert not dense(X)[10:].any()


@pytest.mark.parametrize("texts", [["", " ", "\n"], ["...", "!!", "?"]])
def test_texts_without_any_word_are_refused(texts):
    with pytest.raises(InputError) as caught:
        Features.fit(of_texts(texts))
    assert str(caught.value).startswith("f.csv: expected texts with words, but no word or character is in two rows")
    assert "--text" in str(caught.value)


def test_words_that_no_two_rows_share_are_refused_where_rows_are_many():
    texts = [f"w{i}" for i in range(300)]
    with pytest.raises(InputError, match="no word or character is in two rows or more"):
        Features.fit(of_texts(texts))


def test_texts_of_one_word_have_no_pairs():
    found, X = fitted(of_texts(["red", "blue", "red"]))
    assert [block.terms for block in found.blocks] == [["blue", "red"]]
    np.testing.assert_allclose(dense(X), [[0, 1], [1, 0], [0, 1]], atol=1e-6)


def test_the_most_frequent_terms_are_kept(monkeypatch):
    monkeypatch.setattr(module, "MAX_TERMS", 2)
    found = Features.fit(of_texts(["a b", "a b c", "a d"]))
    assert found.blocks[0].terms == ["a", "b"]


# Numbers


def test_dense_numbers_are_standardised():
    numbers = np.random.default_rng(0).normal(5, 3, (50, 4)).astype(np.float32)
    found, X = fitted(of_numbers(numbers))
    assert isinstance(X, np.ndarray)
    assert X.dtype == np.float32
    np.testing.assert_allclose(X.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(X.std(0), 1, atol=1e-5)
    new = np.arange(8, dtype=np.float32).reshape(2, 4)
    expected = (new - numbers.astype(np.float64).mean(0)) / numbers.astype(np.float64).std(0)
    np.testing.assert_allclose(found.transform(of_numbers(new)), expected, rtol=1e-5)
    assert found.describe() == "4 numbers, standardised"


def sparse_numbers(rows=60, columns=20, seed=0):
    rng = np.random.default_rng(seed)
    numbers = rng.random((rows, columns), dtype=np.float32)
    return sp.csr_array(numbers * (rng.random((rows, columns)) < 0.1))


def test_sparse_numbers_are_scaled_and_not_centred():
    numbers = sparse_numbers()
    found, X = fitted(of_numbers(numbers))
    assert sp.issparse(X)
    assert X.dtype == np.float32
    assert X.nnz == numbers.nnz
    std = numbers.toarray().astype(np.float64).std(0)
    np.testing.assert_allclose(dense(X), numbers.toarray() / np.where(std > 0, std, 1), rtol=1e-4)
    assert found.describe() == "20 numbers, scaled"


def test_sparse_rows_of_length_one_stay_as_they_are():
    numbers = sparse_numbers()
    lengths = np.sqrt(np.asarray(numbers.multiply(numbers).sum(1))).ravel()
    one = sp.csr_array(sp.diags_array(1 / np.where(lengths > 0, lengths, 1)) @ numbers)
    one.data = one.data.round(3)  # as files have it
    found, X = fitted(of_numbers(one))
    np.testing.assert_array_equal(X.toarray(), one.toarray().astype(np.float32))
    assert found.describe() == "20 numbers, of rows of length 1"
    # One row of another length, and they are numbers like others.
    longer = one.toarray()
    longer[np.flatnonzero(lengths)[0]] *= 1.5
    found, X = fitted(of_numbers(sp.csr_array(longer)))
    assert found.std is not None
    np.testing.assert_allclose(X.toarray(), longer / longer.std(0), rtol=1e-5)
    assert found.describe() == "20 numbers, scaled"


def test_sparse_matrices_with_few_zeros_are_standardised():
    full = np.random.default_rng(0).normal(5, 3, (30, 4)).astype(np.float32)
    _, X = fitted(of_numbers(sp.csr_array(full)))
    np.testing.assert_array_equal(X, fitted(of_numbers(full))[1])


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1.0, 1000.3, -7.7, 1e-6, 1e20])
def test_constant_columns_of_a_dense_matrix_become_zero(value):
    numbers = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    numbers[:, 1] = value
    X = fitted(of_numbers(numbers))[1]
    assert np.abs(X[:, 1]).max() < 1e-3
    assert np.isfinite(X).all()


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1.0, 2.0, 1000.3])
def test_constant_columns_of_a_sparse_matrix_stay_as_they_are(value):
    numbers = sparse_numbers().toarray()
    numbers[:, 3] = value
    numbers[:, 5] = 0
    X = dense(fitted(of_numbers(sp.csr_array(numbers)))[1])
    np.testing.assert_allclose(X[:, 3], value, rtol=1e-5)
    assert not X[:, 5].any()


@pytest.mark.parametrize("size", [1e18, 1e-18])
def test_huge_and_tiny_numbers_are_scaled_like_others(size):
    numbers = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    X = fitted(of_numbers(numbers))[1]
    scaled = fitted(of_numbers(numbers * np.float32(size)))[1]
    if size > 1:  # below 1e-12 a column counts as constant, and is centred only
        np.testing.assert_allclose(scaled, X, atol=1e-4)
    assert np.isfinite(scaled).all()


def test_one_more_or_one_less_feature_is_refused():
    found = Features.fit(of_numbers(np.ones((3, 1200), dtype=np.float32)))
    for came, shown in ((1199, "1,199"), (1201, "1,201")):
        with pytest.raises(InputError, match=f"^f.csv: expected 1,200 features, as in training; got {shown}"):
            found.transform(of_numbers(np.ones((2, came), dtype=np.float32)))
    with pytest.raises(InputError, match="expected 1,200 features, as in training; got 0"):
        found.transform(of_texts(["a"]))


# Missing numbers


@pytest.mark.parametrize("sparse", [False, True])
def test_a_missing_number_becomes_the_mean_and_is_reported_where_training_had_one(sparse):
    numbers = sparse_numbers(60, 6).toarray() if sparse else np.random.default_rng(0).normal(5, 3, (60, 6))
    numbers = numbers.astype(np.float32)
    numbers[[3, 8], 1] = np.nan
    numbers[5, 4] = np.nan
    known = numbers.astype(np.float64)
    mean, std = np.nanmean(known, 0), np.nanstd(known, 0)
    new = numbers[:10].copy()
    new[2, 0] = np.nan  # where training had none
    filled = np.where(np.isnan(new), mean, new)
    expected = np.hstack([filled / std if sparse else (filled - mean) / std, np.isnan(new[:, [1, 4]])])
    as_read = sp.csr_array if sparse else np.asarray
    found, X = fitted(of_numbers(as_read(numbers)))
    assert X.shape[1] == found.size == 8
    np.testing.assert_allclose(dense(found.transform(of_numbers(as_read(new)))), expected, rtol=1e-4, atol=1e-6)
    assert sp.issparse(X) == sparse
    assert found.describe() == f"6 numbers, {'scaled' if sparse else 'standardised'} + 2 for missing cells"
    assert np.isnan(dense(as_read(numbers))).sum() == 3  # what was read is left as it is


def test_a_column_of_nothing_but_missing_numbers_is_zero():
    numbers = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    numbers[:, 1] = np.nan
    found, X = fitted(of_numbers(numbers))
    np.testing.assert_array_equal(X[:, 1], 0)
    assert found.missing == [1]
    assert np.isfinite(X).all()


# Categories


def of_categories(*columns, numbers=None):
    frame = pl.DataFrame({str(i): pl.Series(cells, dtype=pl.String) for i, cells in enumerate(columns)})
    return Examples("f.csv", None, numbers, None, [], frame)


def test_a_category_has_a_column_a_value_and_one_for_the_rest():
    train = of_categories(["b", "a", "b", "a", "lone"], ["x", None, None, "x", "x"])
    found, X = fitted(train)
    assert [category.values for category in found.categories] == [["a", "b"], ["x", None]]
    expected = [[0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0]]
    assert sp.issparse(X)
    assert X.dtype == np.float32
    np.testing.assert_array_equal(dense(X), expected)
    new = dense(found.transform(of_categories(["new", None, "b"], ["y", "x", None])))
    np.testing.assert_array_equal(new, [[0, 0, 1, 0, 0, 1], [0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 0]])
    assert found.size == 6
    assert found.describe() == "6 for values of categories"


def test_categories_stand_beside_numbers():
    numbers = np.random.default_rng(0).normal(5, 3, (4, 2)).astype(np.float32)
    train = of_categories(["b", "a", "b", "a"], numbers=numbers)
    _, X = fitted(train)
    expected = np.hstack([fitted(of_numbers(numbers))[1], [[0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]]])
    np.testing.assert_allclose(dense(X), expected, rtol=1e-6)


def test_categories_that_are_not_there_are_refused():
    found = Features.fit(of_categories(["b", "a"], numbers=np.ones((2, 1), dtype=np.float32)))
    with pytest.raises(InputError, match=r"^f\.csv: expected 1 columns of categories, as in training; got 0; give"):
        found.transform(of_numbers(np.ones((2, 1), dtype=np.float32)))


# Both


def mixed(rows=40):
    numbers = np.random.default_rng(0).normal(5, 3, (rows, 2)).astype(np.float32)
    return of_numbers(numbers, sentences(rows))


def test_text_and_numbers_stand_side_by_side():
    examples = mixed()
    found, X = fitted(examples)
    text = Features.fit(replace(examples, numbers=None))
    numbers = Features.fit(replace(examples, texts=None))
    assert sp.issparse(X)
    assert found.size == text.size + 2
    expected = np.hstack([dense(part.transform(examples)) for part in (text, numbers)])
    np.testing.assert_array_equal(dense(X), expected)
    assert found.describe() == text.describe() + " + 2 numbers, standardised"


@pytest.mark.parametrize(
    "examples",
    [
        of_texts(sentences(250)),
        of_texts(CHINESE),
        of_numbers(np.random.default_rng(0).normal(5, 3, (50, 4)).astype(np.float32)),
        of_numbers(sparse_numbers()),
        mixed(),
        of_numbers(np.array([[1, np.nan], [2.5, 3], [4, 5]], dtype=np.float32)),
        of_categories(["b", "a", "b", "a"], ["x", None, None, "y"], numbers=np.ones((4, 1), dtype=np.float32)),
    ],
    ids=["words", "characters", "dense", "sparse", "mixed", "missing", "categories"],
)
def test_what_is_saved_gives_bitwise_the_same_matrix(examples):
    found, X = fitted(examples)
    state, arrays = found.state()
    # Through the bytes of a file: a tuple becomes a list there.
    again = Features.from_state(json.loads(json.dumps(state)), {k: np.array(v) for k, v in arrays.items()})
    np.testing.assert_array_equal(dense(again.transform(examples)), dense(X))
    assert again.size == found.size
    assert again.describe() == found.describe()
    assert json.dumps(again.state()[0]) == json.dumps(state)


def test_transform_does_not_look_at_the_other_rows():
    examples = mixed()
    found, X = fitted(examples)
    one = Examples("f.csv", [(examples.texts or [])[7]], examples.numbers[[7]], None, [])
    np.testing.assert_array_equal(dense(found.transform(one)), dense(X)[[7]])


@pytest.mark.parametrize("spaces", [True, False])
def test_texts_with_few_known_words_are_found_in_the_pass_that_counts_terms(spaces):
    known = ["ham eggs", "eggs toast", "ham toast eggs"] if spaces else ["汤很热", "汤好吃", "热汤 好"]
    given = ["ham ham zebra", "ham quux zebra", "HAM! Eggs, quux", "quux", "", "..."]
    given = given if spaces else ["汤船", "汤船海", "热\t汤 \n船", "船", "", " \u3000"]
    features = Features.fit(of_texts(known * 2), characters=True)
    X, unknown = features.transform_and_judge(of_texts(given))
    # One of two is unknown, two of three, one of three, one of one; and texts without a word have nothing unknown.
    np.testing.assert_allclose(unknown, [1 / 2, 2 / 3, 1 / 3, 1, np.nan, np.nan])
    assert features.few_known(given).tolist() == [False, True, False, True, False, False]
    np.testing.assert_array_equal(dense(X), dense(features.transform(of_texts(given))))


def test_rows_of_numbers_have_no_words_that_are_unknown():
    X = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    rows = Examples("t", None, X, None, [])
    assert np.isnan(Features.fit(rows).transform_and_judge(rows)[1]).all()
