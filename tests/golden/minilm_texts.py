"""The 200 texts of the golden vectors of all-MiniLM-L6-v2: (what is peculiar about it, text).

Written for this purpose. Texts of an exact token count are built from words that are one WordPiece each.
"""

import unicodedata

PLAIN = """
The harbour was quiet and the boats lay still.
How do I reset the password of my account?
Payments made after Friday arrive on Monday.
She poured the tea before anyone had sat down.
A heat pump moves warmth instead of making it.
Our train leaves platform four at 07:45 sharp.
What is the difference between a virus and a bacterium?
The recipe needs two eggs, 250 g of flour and a pinch of salt.
def add(a, b): return a + b
SELECT name, count(*) FROM orders WHERE total > 10.5 GROUP BY name;
ERROR 2041: connection refused (os error 111) at src/net/dial.rs:88
https://example.org/a/b?c=d&e=f#g
first.last+tag@example.org
GDP grew by 2.3% in Q3, against 1.9 % a year ago.
The patient was given 5 mg of the drug twice daily for ten days.
No dogs, please.
NO DOGS, PLEASE!!!
no dogs please
It's the dog's bowl; they're not ours, and we'd rather they weren't.
“Quoted” ‘text’ — with dashes – and … an ellipsis
1234567890 12,345.67 -0.001 1e-9 0xDEADBEEF
a+b=c; x^2 - y_2 ~ z | {w} <v> [u] `t` @s #r $q %p &o *n \\m /l
state-of-the-art well-being mother-in-law
The quick onyx goblin jumps over a lazy dwarf.
I love this film.
I hate this film.
I do not love this film.
The bank raised its interest rate.
They sat on the bank of the river.
Apple shares fell after the announcement.
She ate an apple after lunch.
Turn left, then right, then left again.
Antidisestablishmentarianism and pneumonoultramicroscopicsilicovolcanoconiosis
Who wrote the letter that was found in the attic?
the the the the the the the the
v2.13.0-rc.1+build.7
C++ vs. C# vs. F# vs. R
10:15–11:45, 3–5 May 2026
""".strip().split("\n")

SCRIPTS = """
de|Die Brücke über den Fluss wird im Frühjahr für den Verkehr gesperrt.
de|Straßenbahnhaltestellenverzeichnis
fr|L'hôtel n'ouvre qu'à dix-huit heures, même en été.
es|¿Dónde está la estación más cercana, señor?
pt|Não há pão fresco nesta manhã de verão.
it|Perché il caffè è già freddo?
pl|Źdźbło trawy rośnie przy ścieżce nad wodą.
cs|Příliš mnoho řek teče k jihu.
tr|İstanbul'da ışıklar ve ırmaklar gördüm.
vi|Hôm nay trời đẹp, chúng tôi đi bộ dọc bờ sông.
is|Það er kalt við ána í dag.
ro|Știința și țara își țin porțile deschise.
hu|Az őrült űrhajós fütyült a hídon.
el|Το ποτάμι είναι κρύο σήμερα το πρωί.
el|ΟΔΟΣ ὁδός Ὀδυσσεύς
ru|Сегодня утром река холодная, а мост закрыт.
uk|Їхній човен стоїть біля причалу.
bg|Влакът тръгва в седем часа.
sr|Река је данас хладна и брза.
ar|النهر بارد هذا الصباح والجسر مغلق.
ar|مَرْحَبًا بِكُمْ
fa|امروز رودخانه سرد است.
he|הנהר קר הבוקר והגשר סגור.
he|שָׁלוֹם עֲלֵיכֶם
hi|आज सुबह नदी ठंडी है और पुल बंद है।
bn|আজ সকালে নদীটি ঠান্ডা।
ta|இன்று காலை ஆறு குளிராக இருக்கிறது.
te|ఈ ఉదయం నది చల్లగా ఉంది.
th|วันนี้แม่น้ำเย็นมากและสะพานปิด
km|ទន្លេត្រជាក់ព្រឹកនេះ
my|ဒီမနက် မြစ်က အေးတယ်။
ka|დღეს დილით მდინარე ცივია.
hy|Այսօր առավոտյան գետը սառն է։
am|ዛሬ ጠዋት ወንዙ ቀዝቃዛ ነው።
ko|오늘 아침 강물이 차갑고 다리는 막혔습니다.
ko, decomposed|오늘 아침
ja|今朝は川が冷たくて、橋は通れません。
ja, half width|カワガ ツメタイ
zh|今天早上河水很冷,桥也关闭了。
zh, traditional|今天早上河水很冷,橋也關閉了。
zh, extension B|𠀀𠀁𠮷野家
zh and en|今天的weather很冷,river也是。
mixed|Привет, κόσμε, hello 世界!
bo|དེ་རིང་ཞོགས་པ།
mn|ᠮᠣᠩᠭᠣᠯ
chr|ᎣᏏᏲ
runes|ᚱᚢᚾᛖ
gothic, outside the first plane|𐌲𐌿𐍄
math letters|𝒜𝓁𝑔𝑒𝒷𝓇𝒶 𝔣𝔯𝔞𝔨𝔱𝔲𝔯
""".strip().split("\n")

SYMBOLS = [
    ("emoji", "I am so happy today 😀🎉"),
    ("emoji alone", "🙂"),
    ("emoji, joined family", "👨‍👩‍👧‍👦 went to the beach"),
    ("emoji, flags", "🇨🇭🇯🇵 vs 🏴󠁧󠁢󠁳󠁣󠁴󠁿"),
    ("emoji, skin tone", "👍🏽 thanks 👩🏿‍🚀"),
    ("emoji, variation selectors", "❤️ ❤︎ ☎️"),
    ("keycap", "press 3️⃣ then #️⃣"),
    ("currency", "€5 £6 ¥7 ₹8 ₿9 $10"),
    ("math", "∑ xᵢ² ≤ ∞, ∀ε>0 ∃δ"),
    ("arrows and boxes", "→ ← ┌─┐ █▓▒░"),
    ("superscripts and fractions", "x² + y³ = ½ H₂O ™ № ㎏"),
    ("ligatures", "efficient ﬁne ﬂow ﬃ"),
    ("full width", "ＦＵＬＬ　ｗｉｄｔｈ １２３"),
    ("combining marks", "e\u0301 a\u030a n\u0303 Z\u0351\u0327\u0321a\u0334l\u0355g\u0322o\u0489"),
    ("precomposed", "\u00e9 \u00e5 \u00f1"),
    ("sharp s, dotted i, final sigma", "GROSS groß ẞ İ ı Σίσυφος"),
    ("braille", "⠓⠑⠇⠇⠕"),
    ("private use", "a\ue000b \U000f0000 c"),
    ("noncharacter", "a\ufffeb\uffffc"),
    ("replacement character", "caf\ufffd open"),
]

SPACES = [
    ("empty", ""),
    ("space", " "),
    ("whitespace only", " \t\r\n \u00a0\u2003\u3000 "),
    ("newlines", "first line\nsecond line\r\n\n\nfourth"),
    ("tabs", "col1\tcol2\t\tcol4"),
    ("leading and trailing", "   padded on both sides   "),
    ("no-break and thin spaces", "10\u00a0000\u202fkm and\u2009more"),
    ("line and paragraph separators", "one\u2028two\u2029three"),
    ("zero width", "zero\u200bwidth\u200cjoin\u200der\u2060\ufeffbom"),
    ("byte order mark", "\ufeffstarts with a mark"),
    ("soft hyphen", "hy\u00adphen\u00adation"),
    ("NUL", "before\x00after"),
    ("NUL alone", "\x00"),
    ("control characters", "bell\x07 back\x08 esc\x1b[31m del\x7f unit\x1f"),
    ("C1 controls", "next\x85line\x9fend"),
    ("bidi overrides", "left \u202eright\u202c left \u2066isolate\u2069"),
    ("tag characters", "hid\U000e0068\U000e0069den"),
]

SPECIALS = [
    ("special tokens as text", "[CLS] hello [SEP] world [PAD] [MASK] [UNK]"),
    ("special token alone", "[SEP]"),
    ("special tokens, lower case", "[cls] [sep] [mask]"),
    ("continuation marks", "##ing ## #hash"),
    ("one token", "river"),
    ("one token, upper case", "RIVER"),
    ("one character", "a"),
    ("one punctuation mark", "."),
    ("one unknown character", "ᚠ"),
    ("word of 100 characters", "a" * 100),
    ("word of 101 characters", "a" * 101),
    ("word of 5000 characters", "ab" * 2500),
    ("long word among others", "the " + "z" * 300 + " end"),
    ("200 hyphens", "-" * 200),
    ("400 dots", "." * 400),
    ("base64", "TG9yZW0gaXBzdW0gZG9sb3Igc2l0IGFtZXQsIGNvbnNlY3RldHVyIGFkaXBpc2NpbmcgZWxpdC4="),
    ("hexadecimal", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ("json", '{"id": 7, "tags": ["a", "b"], "nested": {"ok": true, "none": null}}'),
    ("html", "<p class=\"x\">Tom &amp; Jerry<br/>&nbsp;</p>"),
    ("markdown", "# Title\n\n- item *one*\n- item **two**\n\n```sh\nls -la | wc -l\n```"),
]

WORDS = ("the river runs past old stone houses and under a bridge where people wait for boats in summer while "
         "children play on green grass near water that comes down from high mountain snow every spring").split()


def of_tokens(count: int, shift: int = 0) -> str:
    """A text of exactly `count` tokens, [CLS] and [SEP] included: every word of WORDS is one token."""
    return " ".join(WORDS[(shift + 7 * n) % len(WORDS)] for n in range(count - 2))


def lengths() -> list[tuple[str, str]]:
    around = [126, 127, 128, 129, 130, 253, 254, 255, 256, 257, 258, 259, 300, 511, 512, 513, 600, 1500]
    small = [3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 40, 47, 48, 49, 63, 64, 65, 80, 95, 96, 97, 112, 160, 192,
             200, 224, 240]
    return [(f"{count} tokens", of_tokens(count, shift=count)) for count in small + around]


def truncations() -> list[tuple[str, str]]:
    """Cuts in awkward places: inside a word of many pieces, after the limit's last word, in another script."""
    return [
        ("cut inside a word", of_tokens(254) + " antidisestablishmentarianism"),
        ("cut before punctuation", of_tokens(256) + "!?"),
        ("256 with trailing space", of_tokens(256) + "   "),
        ("over the limit in Chinese", "今天早上河水很冷" * 40),
        ("over the limit in Cyrillic", "Сегодня утром река холодная. " * 20),
        ("over the limit in emoji", "🙂🎉" * 200),
        ("long paragraph", " ".join(PLAIN)),
        ("all scripts", " ".join(line.split("|", 1)[1] for line in SCRIPTS)),
    ]


def texts() -> list[tuple[str, str]]:
    scripts = [tuple(line.split("|", 1)) for line in SCRIPTS]
    scripts = [(note, unicodedata.normalize("NFD", text) if "decomposed" in note else text) for note, text in scripts]
    out = [("plain", line) for line in PLAIN] + scripts + SYMBOLS + SPACES + SPECIALS + lengths() + truncations()
    assert len(out) == 200, len(out)
    return out
