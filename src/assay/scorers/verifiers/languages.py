"""Which language a text is in, of those that IFEval asks for: by script and letters, and by small words where scripts are shared.

Upstream uses langdetect, which is random without a seed and takes what it cannot tell as right. Here what cannot be told is None.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from assay.data.scripts import script_of

_BY_SCRIPT: Mapping[str, str] = {
    "Hebrew": "he", "Thai": "th", "Tamil": "ta", "Telugu": "te", "Kannada": "kn", "Gujarati": "gu", "Gurmukhi": "pa",
    "Malayalam": "ml", "Bengali": "bn", "Korean": "ko", "Japanese": "ja", "Han": "zh", "Greek": "el", "Armenian": "hy",
    "Georgian": "ka",
}  # fmt: skip
_LETTERS: Mapping[str, Mapping[str, str]] = {  # letters of one language among those that share a script
    "Cyrillic": {"uk": "іїєґ", "ru": "ыэё", "bg": ""},
    "Arabic": {"ur": "ٹڈڑںےہ", "fa": "", "ar": "ةىإأ"},
    "Devanagari": {"mr": "ळ", "hi": "", "ne": ""},
}
_WORDS: Mapping[str, Mapping[str, str]] = {
    "Latin": {
        "en": "the of and to in is that it for was with as on are this be you not have from or by at an we they can which",
        "de": "der die das und ist nicht ein eine zu den mit von auf für sich dem es im wie auch wir sie ich wird sind",
        "fr": "le la les des et est un une dans que pour pas qui sur avec vous nous ce cette sont du au plus par je",
        "es": "el la los las de y que en un una es por con para no se su como más pero está son del al lo muy",
        "pt": "o os as de e que em um uma é por com para não se seu como mais mas está são do da no na você ao",
        "it": "il lo gli di e che in un una è per con non si come più ma sono del della nel alla dei questo le ho",
        "pl": "i w z na nie to jest się że do jak ale są dla przez po czy być tego od może także który jako",
        "fi": "ja on ei se että hän ovat mutta kun oli myös tai kuin joka sen niin voi olla tämä ole minä sinä",
        "vi": "và là của không có một những được trong cho với các này đã để người khi như tôi bạn thì từ",
        "sw": "na ya wa kwa ni katika la za hii kuwa hiyo si yake lakini pia ambayo kama sana hili watu moja",
        "nl": "de het een en van is niet dat in op te zijn voor met aan ook er maar om hij wij je bij naar uit",
        "tr": "ve bir bu için ile de da çok olarak daha ne gibi ama var değil olan ben sen kadar sonra her",
        "id": "yang dan di ini itu dengan untuk tidak dari dalam akan pada juga adalah ke karena bisa ada saya",
    },
    "Cyrillic": {
        "ru": "и в не на что с по это как он она но из у за к для от так же бы все мы вы я было",
        "uk": "і в не на що з це як він вона але за для від та до є ми ви я було або також при його",
        "bg": "и в не на че с за от да се по това като той тя но са ще ние вие аз беше или как при е",
    },
    "Arabic": {
        "ar": "في من على أن إلى هذا التي الذي لا ما هو هي عن مع كان هذه بعد كل قد أو",
        "fa": "و در به از که این را با است برای آن یک خود تا بر هم می شود شد ما",
        "ur": "کے کی میں ہے اور سے کا کو نہیں یہ پر ہیں ایک نے وہ تھا بھی کر ہو لیے",
    },
    "Devanagari": {
        "hi": "है के की में और से का को यह पर हैं एक नहीं ने कि भी था कर हो लिए",
        "mr": "आहे आणि च्या मध्ये हे ते या एक नाही की तो ती आहेत होते पण साठी करून असे",
        "ne": "छ र को मा हो यो पनि छन् गर्न भएको लागि एक तर हुन् थियो गरेको यस",
    },
}  # fmt: skip
_LEAST_LETTERS = 12


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language of a text; None where it has too few letters or small words to tell."""
    script = script_of(text)
    if sum(character.isalpha() for character in text) < _LEAST_LETTERS:
        return None
    if script in _BY_SCRIPT:
        return _BY_SCRIPT[script]
    counts = Counter(character for character in text.lower() if character.isalpha())
    score = {language: 5.0 * sum(counts[letter] for letter in letters) for language, letters in _LETTERS.get(script, {}).items()}
    words = Counter(re.split(r"[\s.,;:!?()\[\]{}\"“”«»„…।،؟؛–—*_]+", text.lower()))  # vowel signs are no \w
    for language, known in _WORDS.get(script, {}).items():
        score[language] = score.get(language, 0.0) + sum(words[word] for word in known.split())
    ranked = sorted(score.items(), key=lambda item: -item[1])
    if not ranked or ranked[0][1] == 0 or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


KNOWN = frozenset(_BY_SCRIPT.values()) | {language for words in _WORDS.values() for language in words}
"""The codes that `language_of` can give."""
