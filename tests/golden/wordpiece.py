"""A small WordPiece vocabulary of our own and its tokenizer.json, for the tiny golden models."""

import json
import string
from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

WORDS = """
a about above across after again air all along also always an and animal answer any are arm around as ask at away
back bad ball bank be beach bear because bed before begin behind below best better between big bird black blue boat
body book both bread bridge bring brown build bus but buy by call can car carry cat change child city clean clear
close cloud cold color come cook cool corn could count country cow cross cup cut dark day deep did dinner do dog door
down draw dream drink drive dry each early earth east easy eat egg eight end enough even every eye face fall family
far farm fast father feel few field find fire first fish five floor flower fly food foot for forest four free fresh
friend from front fruit full game garden gave get girl give glass go gold good grass great green ground grow had half
hand happy hard has have he head hear heart heavy help her here high hill him his hold home horse hot hour house how
hundred ice if in inside into iron is island it just keep key kind king know lake land large last late learn leave left
less letter life light like line list little live long look loud love low machine made make man many map may me milk
mind mine model moon more morning most mother mountain move much music must my name near never new next night nine no
noise north not now number of off oil old on once one only open or orange other our out over own page paint paper part
people picture place plan plant play point quick rain read ready red rest rice ride right ring river road rock room
round run same sand say school sea search second see seed send seven shell ship short show side silver sing sister six
sky sleep slow small snow so soft some song soon sound south space stand star start stone stop storm story street
strong summer sun sure swim table take talk tall tea tell ten than that the their them then there these they thing
think this three through time to together too top town tree true try turn two under until up us use very voice wait
walk wall want war warm was watch water way we well west what wheat wheel when where which white who why wide will wind
window winter with wood word work world write year yellow yes yet you young your
""".split()

PIECES = "ing ed er est ly s es ness ment able ful less ous tion al en y ish ward like side time work man".split()

OTHER = list("“”’–—…€°é中文日本語海山水火") + ["über"]


def vocabulary(cased: bool) -> list[str]:
    """Specials first, then punctuation, single characters (also as continuations), words, suffixes."""
    letters = list(string.ascii_lowercase + string.digits)
    if cased:
        letters += list(string.ascii_uppercase)
    words = WORDS + (["The", "River", "Moon", "I", "We", "North"] if cased else ["i"])
    entries = SPECIALS + list(string.punctuation) + letters + ["##" + c for c in letters]
    entries += words + ["##" + piece for piece in PIECES] + OTHER
    return list(dict.fromkeys(entries))


def tokenizer(vocab: list[str], cased: bool) -> Tokenizer:
    """The pipeline that BertModel checkpoints ship: normaliser, pre-tokenizer, WordPiece, [CLS] … [SEP]."""
    ids = {token: index for index, token in enumerate(vocab)}
    tok = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100, continuing_subword_prefix="##"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece(prefix="##")
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tok.add_special_tokens(SPECIALS)
    return tok


def write(directory: Path, cased: bool, model_max_length: int, fixed_padding: int | None) -> Tokenizer:
    """Writes tokenizer.json, vocab.txt and their configuration; `fixed_padding` plants a trap that real files carry."""
    vocab = vocabulary(cased)
    clean = tokenizer(vocab, cased)
    trapped = tokenizer(vocab, cased)
    if fixed_padding is not None:
        trapped.enable_truncation(fixed_padding)
        trapped.enable_padding(length=fixed_padding)
    document = json.loads(trapped.to_str())
    (directory / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")
    (directory / "vocab.txt").write_text("\n".join(vocab) + "\n")
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": not cased,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
        "model_max_length": model_max_length,
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return clean
