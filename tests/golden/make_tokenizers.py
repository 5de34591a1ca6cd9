"""Makes the tiny tokenizers in tokenizers/ and what the reference makes of 5,000 nasty strings with each.

    bench/peers/setup.sh
    bench/peers/.venv/bin/python tests/golden/make_tokenizers.py [KIND...]   # all of them without a name

Each kind has the normaliser, the pre-tokenizer, the post-processor and the special tokens of a family of published
tokenizers, with a vocabulary trained here. The strings are not stored but generated, here and in the test alike, from
fragments.json. The format is described in README.md beside this file.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import wordpiece
from minilm_texts import PLAIN, SCRIPTS

ROOT = Path(__file__).parent / "tokenizers"
STRINGS = 5000
FRAGMENTS_MAX = 12
# Strings whose ids are hashed together.
GROUP = 25
WRITTEN_OUT = 40
LIMIT = 12
PROMPT = "query: \t"
ENTRIES = 640

NASTY = [
    "", " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n\n", "\u00a0", "\u2028", "\u3000", "\u200b", "\u200d", "\ufeff", "\x00",
    "\x07", "\x7f", "\u0085", "\ufffd", "\ue000", "\U0010ffff", "a", "A", "\u00e9", "e\u0301", "\u1e9b\u0323", "\u212b",
    "\ufb01", "\u017f", "\u0130", "\u0131", "\u00df", "\u1e9e", "\u03a3\u03c3\u03c2", "\u01c5", "\u2126", "\u00bd", "\u2463",
    "\uff21\uff42", "\u3392", "\u0e01\u0e33", "\u0645\u0631\u062d\u0628\u0627", "\ufdfa", "\u05e9\u05c1", "\u0915\u094d\u0937\u093f",
    "\u1100\u1161\u11a8", "\uac01", "\u65e5\u672c\u8a9e", "\U00020000", "\u304c\u3099", "\u30ab\u309a", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "\U0001d518", "\U0001d7d9", "1", "12", "1234567", "3.14",
    "1,000", "\u0663\u0664", "\u2167", "'s", "'LL", "\u2019re", "don't", "I'M", "''", '"', "#", "##", "##ing", "[CLS]", "[SEP]",
    "[UNK]", "[PAD]", "[MASK]", "<s>", "</s>", "<unk>", "<pad>", "<mask>", "<bos>", "<eos>", "<|endoftext|>",
    "<|begin_of_text|>", "<|im_start|>", "<0x41>", "<0xFF>", "\u2581", "\u2581the", "\u0120", "\u010a", "\u0120the", "_", "__init__",
    "snake_case", "camelCase", "x=y;", "a/b\\c", "->", "=>", "!!!", "...", "\u2026", "\u2014", "\u201cq\u201d", "\u00ab\u00bb", "\u20ac5",
    "%", "&amp;", "http://a.b/c?d=e", "me@x.org", "0x1F", "1e-9", "A" * 40, "ab" * 60, "\u0301" * 5, "a\u0316\u0301", "\u0340",
    "\u0958", "\u2f801", "\u00c5ngstr\u00f6m", "na\u00efve", "Stra\u00dfe", "\u0418\u0439", "\u0438\u0306", "\u0648\u0651", "\u200f", "\u202e", "\u2060",
    "\ufe0f", "\u00ad", "\u034f", "\u180e", "\u1680", "\u2003", "\u202f", "\x1c", "\x0b", "\x0c",
]


def texts() -> list[str]:
    return PLAIN + [line.split("|", 1)[1] for line in SCRIPTS]


def fragments() -> list[str]:
    words = sorted({word for text in texts() for word in text.split()})
    return NASTY + words + [f" {word}" for word in words[::3]]


def draws(seed: int) -> Iterator[int]:
    """A linear congruential generator (Knuth's MMIX) whose upper bits are used."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 33


def string(number: int, pool: list[str]) -> str:
    """Fragments, and now and then any character at all."""
    draw = draws(number)
    out = []
    for _ in range(next(draw) % FRAGMENTS_MAX + 1):
        at = next(draw) % (len(pool) + len(pool) // 8)
        if at < len(pool):
            out.append(pool[at])
        else:
            code = next(draw) % 0x110000
            out.append("" if 0xD800 <= code < 0xE000 else chr(code))
    return "".join(out)


def fnv(state: int, ids: list[int]) -> int:
    """FNV-1a over the ids as u32, little-endian, behind their number."""
    for number in [len(ids), *ids]:
        for byte in number.to_bytes(4, "little"):
            state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


def template(tok: Tokenizer, single: str) -> processors.TemplateProcessing:
    names = [piece for piece in single.split() if piece != "$A"]
    return processors.TemplateProcessing(single=single, special_tokens=[(name, tok.token_to_id(name)) for name in names])


def trained(tok: Tokenizer, trainer, specials: list) -> Tokenizer:
    tok.train_from_iterator(texts() + [" ".join(wordpiece.WORDS)] * 3, trainer)
    tok.add_special_tokens(specials)
    return tok


def bpe(specials: list[str], **options) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(vocab_size=ENTRIES, special_tokens=specials, show_progress=False, **options)


def byte_level(pre_tokenizer, normalizer, specials: list[str], frame: str) -> Tokenizer:
    """Byte-level BPE (Radford et al. 2019)."""
    tok = Tokenizer(models.BPE())
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizer
    tok.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained(tok, bpe(specials, initial_alphabet=alphabet), specials)
    tok.post_processor = template(tok, frame)
    return tok


def roberta() -> Tokenizer:
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tok = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), None, specials, "<s> $A </s>")
    # The mask takes the space before it.
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return tok


def modernbert() -> Tokenizer:
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok = byte_level(pre, normalizers.NFC(), ["<|padding|>", "<|endoftext|>", *specials], "[CLS] $A [SEP]")
    tok.add_special_tokens([AddedToken("[MASK]", lstrip=True, special=True)])
    tok.add_tokens([AddedToken(" " * width, normalized=False) for width in range(24, 1, -1)])
    return tok


# Words as the published tokenizers cut them: single digits (Qwen), or up to three (Llama 3).
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def words(digits: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(WORDS.format(digits=digits)), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def qwen() -> Tokenizer:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return byte_level(words(""), normalizers.NFC(), specials, "$A <|endoftext|>")


def llama3() -> Tokenizer:
    return byte_level(words("{1,3}"), None, ["<|begin_of_text|>", "<|end_of_text|>"], "<|begin_of_text|> $A")


def sentencepiece_bpe(normalizer, pre_tokenizer, specials: list[str], frame: str) -> Tokenizer:
    """Byte-pair encoding of characters, with bytes for what has no entry (Kudo and Richardson 2018)."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizer
    if pre_tokenizer:
        tok.pre_tokenizer = pre_tokenizer
    else:
        # Only for training: words of their own, as the trainer would else learn whole lines.
        tok.pre_tokenizer = pre_tokenizers.Split("\u2581", behavior="merged_with_next")
    trained(tok, bpe([*specials, *(f"<0x{byte:02X}>" for byte in range(256))], limit_alphabet=80), specials)
    document = json.loads(tok.to_str())
    if not pre_tokenizer:
        document["pre_tokenizer"] = None
    # Bytes are entries, not special tokens that a text could spell.
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] in specials]
    tok = Tokenizer.from_str(json.dumps(document))
    tok.post_processor = template(tok, frame)
    return tok


def mistral() -> Tokenizer:
    normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return sentencepiece_bpe(normalizer, None, ["<unk>", "<s>", "</s>"], "<s> $A </s>")


def gemma() -> Tokenizer:
    pre = pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    return sentencepiece_bpe(normalizers.Replace(" ", "\u2581"), pre, specials, "<bos> $A <eos>")


def xlm_roberta() -> Tokenizer:
    """Unigram (Kudo 2018). The published file holds NFKC and SentencePiece's own rules as a table, here they are rules."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("\u2581", prepend_scheme="always")])
    trainer = trainers.UnigramTrainer(vocab_size=ENTRIES, special_tokens=specials, unk_token="<unk>", show_progress=False)
    trained(tok, trainer, specials)
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tok.post_processor = template(tok, "<s> $A </s>")
    return tok


def deberta(normalizer: normalizers.Normalizer) -> Tokenizer:
    """Unigram without a split at spaces before it: a piece takes the space in front."""
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace("\u2581", prepend_scheme="always")])
    trainer = trainers.UnigramTrainer(vocab_size=ENTRIES, special_tokens=specials, unk_token="[UNK]", show_progress=False)
    trained(tok, trainer, specials)
    tok.add_special_tokens([AddedToken("[MASK]", special=True)])
    names = [(name, tok.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=names)
    return tok


def deberta_v3() -> Tokenizer:
    """As the published files have it; SentencePiece's own rules, which they hold as a table, are rules here."""
    return deberta(normalizers.Sequence([normalizers.Strip(), normalizers.Nmt(), normalizers.NFKC(),
                                         normalizers.Replace(Regex(" {2,}"), " ")]))


def deberta_current() -> Tokenizer:
    """As transformers 5 writes it."""
    return deberta(normalizers.Sequence([normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(),
                                         normalizers.Strip(left=False, right=True)]))


def bert(cased: bool) -> Tokenizer:
    return wordpiece.tokenizer(wordpiece.vocabulary(cased), cased)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece-uncased": lambda: bert(cased=False), "wordpiece-cased": lambda: bert(cased=True),
    "unigram-xlm-roberta": xlm_roberta, "bpe-roberta": roberta, "bpe-modernbert": modernbert, "bpe-qwen": qwen,
    "bpe-llama3": llama3, "bpe-mistral": mistral, "bpe-gemma": gemma, "unigram-deberta-v3": deberta_v3,
    "unigram-deberta-current": deberta_current,
}


def answers(tok: Tokenizer, pool: list[str]) -> dict:
    """Ids of the strings as they are, cut to a limit, and behind a prompt."""
    out = {"tokens_max": LIMIT, "prompt": PROMPT, "written_out": [], "whole": [], "cut": [], "prompted": []}
    strings = [string(number, pool) for number in range(STRINGS)]
    for name, limit, prompt in (("whole", None, ""), ("cut", LIMIT, ""), ("prompted", None, PROMPT)):
        tok.no_truncation()
        if limit:
            tok.enable_truncation(limit)
        every = [tok.encode(prompt + text).ids for text in strings]
        for first in range(0, STRINGS, GROUP):
            state = 0xCBF29CE484222325
            for ids in every[first : first + GROUP]:
                state = fnv(state, ids)
            out[name].append(f"{state:016x}")
        if name == "whole":
            out["written_out"] = every[:WRITTEN_OUT]
    tok.no_truncation()
    return out


def main() -> None:
    ROOT.mkdir(exist_ok=True)
    pool = fragments()
    (ROOT / "fragments.json").write_text(json.dumps(pool, separators=(",", ":")) + "\n")
    for name, make in KINDS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        tok = make()
        text = json.dumps(json.loads(tok.to_str()), separators=(",", ":")) + "\n"
        (ROOT / f"{name}.tokenizer.json").write_text(text)
        document = {"strings": STRINGS, "made_by": {"tokenizers": tokenizers.__version__}} | answers(tok, pool)
        (ROOT / f"{name}.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
        print(name, tok.get_vocab_size(), len(text), "bytes")


if __name__ == "__main__":
    main()
