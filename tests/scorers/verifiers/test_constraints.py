"""The 25 kinds of IFEval's instructions, each followed and not followed, and the languages."""

from __future__ import annotations

import pytest

from assay.scorers.verifiers.constraints import KINDS, BadConstraint, CannotTell, follows, sentences_of
from assay.scorers.verifiers.languages import language_of

LONG = "The old mill of the village stood for a hundred years, and it was never sold to anybody."
CASES = [
    ("keywords:existence", {"keywords": ["mill", "Village"]}, LONG, LONG.replace("mill", "barn")),
    ("keywords:existence", {"keywords": ["a+b"]}, "so a+b is it", "so aab is it"),
    ("keywords:frequency", {"keyword": "is", "frequency": 2, "relation": "at least"}, "it is as it is", "it is"),
    ("keywords:frequency", {"keyword": "is", "frequency": 2, "relation": "less than"}, "it is", "it is as it is"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "a category", "a Cat sat"),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 3, "let_relation": "at least"}, "Eee", "ee"),
    ("language:response_language", {"language": "de"}, "Das ist ein Haus und nicht die Mühle.", LONG),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two!", "Only Dr. Who."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n***\n***\nb"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "now three words"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        "First.\n\n'Then' it ended.",
        "First.\n\nIt ended then.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name] of [town]", "Dear [name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Yours\nP.S. come soon", "He said P.S. and left"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Yours\n\nP.P.S. come soon", "Yours\nP.S. come soon"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n- b\n* c"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and **two**", "*one* and two"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section 1\na\nsubSection 2\nb",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{'a': 1}"),
    ("detectable_format:title", {}, "<<A song>>\nla", "<< >>\nla"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "Say it. It.", "It. Say it."),
    ("startend:end_checker", {"end_phrase": "That is all."}, '"So. That is all."', "That is all. Bye."),
    ("startend:quotation", {}, '"quoted"', '"quoted'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "NOW we GO", "NOW we go"),
    ("change_case:english_capital", {}, LONG.upper(), LONG),
    ("change_case:english_lowercase", {}, LONG.lower(), LONG),
    ("punctuation:no_comma", {}, "no comma", LONG),
]


@pytest.mark.parametrize(("kind", "given", "good", "bad"), CASES)
def test_an_instruction_is_followed_or_not(kind, given, good, bad):
    assert follows(kind, good, given)
    assert not follows(kind, bad, given)
    assert not follows(kind, " \n", given)
    assert follows(kind, good, {**given, "num_other": None}), "data sets fill what is not given with null"


def test_all_25_kinds_are_tried():
    assert len(KINDS) == 25
    assert {kind for kind, *_ in CASES} == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("keywords:exists", {}, "none of IFEval's 25 kinds"),
        ("keywords:existence", {}, "needs 'keywords'"),
        ("keywords:existence", {"keywords": "mill"}, "must be a list of texts"),
        ("keywords:frequency", {"keyword": "is", "frequency": 2, "relation": "more than"}, "'less than' or 'at least'"),
        ("keywords:letter_frequency", {"letter": "ee", "let_frequency": 3, "let_relation": "at least"}, "one character"),
        ("length_constraints:number_words", {"num_words": "3", "relation": "less than"}, "must be a whole number"),
        ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 1, "nth_paragraph": 0, "first_word": "a"}, "from 1"),
        ("startend:end_checker", {"end_phrase": " "}, "must be text"),
        ("language:response_language", {"language": "tlh"}, "none that can be told"),
    ],
)
def test_an_instruction_that_cannot_be_checked_is_a_mistake(kind, given, said):
    with pytest.raises(BadConstraint, match=said):
        follows(kind, LONG, given)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", LONG), ("de", "Die Mühle ist alt und sie wird nicht verkauft."), ("fr", "Le moulin est vieux et il ne se vend pas."),
        ("es", "El molino es viejo y no se vende por nada."), ("pt", "O moinho é velho e não está à venda para ninguém."),
        ("it", "Il mulino è vecchio e non si vende per niente."), ("pl", "Młyn jest stary i nie jest na sprzedaż."),
        ("fi", "Mylly on vanha ja se ei ole myytävänä."), ("vi", "Cối xay này rất cũ và không được bán cho người nào."),
        ("sw", "Kinu hiki ni cha zamani na hakiuzwi kwa watu."), ("ru", "Мельница старая, и её не продают."),
        ("uk", "Млин старий, і його не продають."), ("bg", "Мелницата е стара и не се продава на никого."),
        ("ar", "الطاحونة قديمة ولا تباع إلى أحد في القرية"), ("fa", "آسیاب قدیمی است و برای فروش نیست چون که پیر است"),
        ("ur", "چکی پرانی ہے اور یہ کسی کو نہیں بیچی جاتی"), ("hi", "चक्की पुरानी है और यह किसी को नहीं बेची जाती है"),
        ("mr", "ही गिरणी जुनी आहे आणि ती विकली जात नाही"), ("ne", "मिल पुरानो छ र यो कसैलाई बेचिएको छैन"),
        ("ko", "방앗간은 오래되었고 팔리지 않습니다"), ("ja", "水車小屋は古くて、売り物ではありません"),
        ("th", "โรงสีเก่าและไม่ได้ขายให้ใคร"),
        ("he", "הטחנה ישנה ואינה נמכרת לאיש"), ("ta", "ஆலை பழையது மற்றும் விற்கப்படவில்லை"), ("te", "మిల్లు పాతది మరియు అమ్మబడదు"),
        ("kn", "ಗಿರಣಿ ಹಳೆಯದು ಮತ್ತು ಮಾರಾಟಕ್ಕಿಲ್ಲ"), ("gu", "મિલ જૂની છે અને વેચાતી નથી"), ("pa", "ਚੱਕੀ ਪੁਰਾਣੀ ਹੈ ਅਤੇ ਵਿਕਾਊ ਨਹੀਂ ਹੈ"),
        ("ml", "മിൽ പഴയതാണ് വിൽക്കുന്നില്ല"), ("bn", "মিলটি পুরানো এবং বিক্রি হয় না"),
    ],
)  # fmt: skip
def test_the_languages_of_ifeval_are_told(language, text):
    assert language_of(text) == language


def test_a_language_that_cannot_be_told_is_no_verdict():
    assert language_of("12 + 30 = 42") is None
    assert language_of("Zyx wvut srqp onmlk") is None
    with pytest.raises(CannotTell, match="too few words"):
        follows("language:response_language", "OK", {"language": "en"})


def test_sentences_end_where_readers_end_them():
    text = 'Dr. Smith paid $3.50, e.g. in cash. "Really?" she asked!\n\nNo full stop here\n\nLast one.'
    assert sentences_of(text) == ["Dr. Smith paid $3.50, e.g. in cash.", '"Really?', "she asked!", "No full stop here", "Last one."]


def test_long_texts_of_one_character_are_quick():
    """Patterns that look at each character again would take minutes here."""
    for kind, given, *_ in CASES:
        for text in ("<" * 50_000, "*" * 50_000, "A. " * 20_000, "[" * 50_000, "\n " * 30_000, "- " * 20_000):
            if "language" not in kind and "english" not in kind:
                assert follows(kind, text, given) in (True, False)
