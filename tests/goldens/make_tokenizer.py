"""Make the tokenizer goldens with Hugging Face transformers and tokenizers.

    python tests/goldens/make_tokenizer.py path/to/gemma-3-270m-q4_k_m.gguf

Needs transformers, tokenizers and sentencepiece; neither of the first two is a dependency of
the project. Writes beside the tests that read it:

    tokenizer_goldens.json   [text, ids] of the Gemma 3 tokenizer. transformers builds its own
                             BPE from the GGUF's vocabulary; nothing of this project runs.
    small_tied.json          tokenizer.json files of Gemma's kind with 700 pieces: merges by
    small_ranked.json        score (runs of spaces tie, as in Google's own), and by id
    small_*_goldens.json     [text, ids] that the `tokenizers` library gives with them

Of the Gemma 3 texts, runs of 32 spaces and more are left out: SentencePiece takes the longest
piece there is, 31, and then the rest. transformers does so only when it knows that the runs
tie; GGUF does not keep that, so from a GGUF it makes 16 and 16.
"""

import io
import json
import sys
import tempfile
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import generate_merges

DATA = Path(__file__).parent.parent / "export" / "checkpoint" / "data"
CORPUS = Path(__file__).parent.parent.parent / "LICENSE"

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "The capital of France is",
    "def f(x):\n    return x ** 2  # squared\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] = b[i] * 0x1F; }",
    "na\u00efve caf\u00e9, \u00c6r\u00f8, \u00fcberm\u00e4\u00dfig, \u0141\u00f3d\u017a",
    "A\u0301e\u0301 decomposed",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3067\u3059\u3002\u6771\u4eac\u30bf\u30ef\u30fc",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01",
    "\uc548\ub155\ud558\uc138\uc694",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\U0001f525\U0001f44d\U0001f3fd",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1ef\U0001f1f5",
    "\U0001d518\U0001d52b\U0001d526 \u2211\u221e \u222b x dx",
    "\x00\x01\x02\x7f\x1b[31mred\x1b[0m",
    "tab\tand\r\nreturn\r\n\r\n",
    "\n" * 5 + "x" + "\n" * 40,
    "\t" * 33,
    "  two",
    "a" + " " * 5 + "b" + " " * 16 + "c" + " " * 31 + "d",
    "x" + " " * 9 + "y" + " " * 10 + "z",  # the small tokenizers know runs up to 8
    "trailing space ",
    "a" * 200,
    "e" * 199 + " " + "l" * 57,
    "<table><tr><td>1</td></tr></table><h1>x</h1>",
    "[multimodal] <0x41> <b>bold</b>",
    "3.14159265358979 1234567890 1,000,000 2^64",
    "https://example.com/a?b=c&d=%20#e",
    "\u2581literal\u2581\u2581blocks\u2581",
    "\u200b\u200e\ufeff\u00a0\u3000|",
    "\ufffd \ue000 \U0010ffff",
    "--------------------------------====~~~~....",
    "It's o'clock; don't \"quote\" 'me' \u2014 \u201cplease\u201d\u2026",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
]


def main() -> None:
    """Write the three files."""
    gguf = Path(sys.argv[1]).resolve()
    reference = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    write("tokenizer_goldens.json", golden(lambda t: reference.encode(t, add_special_tokens=False)))
    for name, by_score in (("small_tied", True), ("small_ranked", False)):
        small = small_tokenizer(by_score)
        (DATA / f"{name}.json").write_text(json.dumps(json.loads(small.to_str())) + "\n")
        rows = golden(lambda t, s=small: s.encode(t, add_special_tokens=False).ids)
        write(f"{name}_goldens.json", rows)
    print(f"made with tokenizers {tokenizers.__version__}")


def golden(encode) -> list[tuple[str, list[int]]]:
    """Every text with its ids."""
    return [(text, encode(text)) for text in TEXTS]


def write(name: str, rows: list) -> None:
    """A JSON list with one row a line."""
    body = ",\n".join(json.dumps(row) for row in rows)
    (DATA / name).write_text(f"[\n{body}\n]\n")


def small_tokenizer(by_score: bool) -> Tokenizer:
    """A BPE like Gemma's: trained by SentencePiece, converted as transformers converts."""
    spaces = ["\u2581" * count for count in range(2, 9)]
    lines = ["\n" * count for count in range(1, 5)]
    proto = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as corpus:
        corpus.write("\n".join([CORPUS.read_text(), *TEXTS]).replace("\x00", ""))
        corpus.flush()
        sentencepiece.SentencePieceTrainer.train(
            input=corpus.name, model_writer=proto, model_type="bpe", vocab_size=700,
            byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False,
            normalization_rule_name="identity", pad_id=0, eos_id=1, bos_id=2, unk_id=3,
            pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", character_coverage=0.98,
            user_defined_symbols=[*lines, *spaces, "<h1>"], hard_vocab_limit=False,
            allow_whitespace_only_pieces=True, num_threads=1,
        )  # fmt: skip
    trained = sentencepiece.SentencePieceProcessor(model_proto=proto.getvalue())
    pieces = [trained.id_to_piece(number) for number in range(trained.get_piece_size())]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    scores = {piece: trained.get_score(number) for piece, number in vocab.items()}
    merges = generate_merges(vocab, scores if by_score else None)
    bpe = models.BPE(
        vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    for piece in pieces[:4]:
        tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True)])
    for piece in [*lines, *spaces, "<h1>"]:
        tokenizer.add_tokens([AddedToken(piece, normalized=False, special=False)])
    # Ids past the vocabulary, as <image_soft_token> has in the published checkpoints.
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    return tokenizer


if __name__ == "__main__":
    main()
