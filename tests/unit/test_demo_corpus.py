"""The demo model's corpus, its held-back questions and the GGUF writer."""

from __future__ import annotations

import random
import re
from itertools import islice
from pathlib import Path

import pytest

from tools.train_demo.corpus import PARAMETERS_MILLIONS, Corpus
from tools.train_demo.evaluate import held_turns, right, unseen_turns
from tools.train_demo.grammar import Grammar
from tools.train_demo.noise import dress

ROOT = Path(__file__).parents[2]
TRAINING_SAMPLES = 6000


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


@pytest.fixture(scope="module")
def training_text(corpus: Corpus) -> str:
    samples = islice(corpus.samples(1000), TRAINING_SAMPLES)
    questions = (turn.question for sample in samples for turn in sample.turns)
    return "\n".join(_plain(question) for question in questions)


def _seeded(seed: int) -> random.Random:
    return random.Random(seed)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9+/.:_-]+", " ", text.lower().replace("'", "")).strip(" .")


def test_samples_depend_only_on_the_seed(corpus: Corpus) -> None:
    assert list(islice(corpus.samples(3), 200)) == list(islice(Corpus().samples(3), 200))
    assert list(islice(corpus.samples(3), 50)) != list(islice(corpus.samples(4), 50))


def test_held_back_patterns_do_not_occur_in_training(corpus: Corpus, training_text: str) -> None:
    rng = _seeded(8)
    leaked = []
    for topic in corpus.book.topics.values():
        for patterns in topic.patterns.values():
            for pattern in patterns.held:
                text = _plain(corpus.grammar.expand(pattern, rng, {}))
                leaked += [text] if text in training_text else []
    assert leaked == []


def test_held_back_frames_do_not_occur_in_training(corpus: Corpus, training_text: str) -> None:
    frames = [frame for kind in ("vp", "np", "kw") for frame in corpus.book.frames[kind].held]
    starts = [_plain(frame.partition("{")[0]) for frame in frames]
    assert [start for start in starts if start and start in training_text] == []


@pytest.mark.parametrize("name", ["unseen", "unseen_late"])
def test_questions_by_hand_do_not_occur_in_training(
    corpus: Corpus, training_text: str, name: str
) -> None:
    turns = unseen_turns(corpus, name)
    assert len(turns) >= 60
    seen = set(training_text.splitlines())
    assert [turn.question for turn in turns if _plain(turn.question) in seen] == []


def test_every_answer_holds_the_facts_of_its_topic(corpus: Corpus) -> None:
    for topic in corpus.book.topics.values():
        assert topic.answers, topic.name
        assert topic.facts, topic.name
        for answer in topic.answers:
            assert right(answer, tuple(topic.facts)), (topic.name, answer)


def test_answers_name_one_address_and_real_commands(corpus: Corpus) -> None:
    text = "\n".join(answer for topic in corpus.book.topics.values() for answer in topic.answers)
    commands = set(re.findall(r"`openllm ([a-z-]+)", text))
    assert commands == {"start", "chat", "query", "bench", "--help", "--version"}
    assert set(re.findall(r"(?:127\.0\.0\.1|localhost):(\d+)", text)) == {"5000"}
    assert set(re.findall(r"`(make [a-z]+)`", text)) == {"make start", "make test"}


def test_each_topic_has_held_back_questions_with_facts(corpus: Corpus) -> None:
    turns = held_turns(corpus, 1)
    assert {topic.name for topic in corpus.groups["product"]} <= {turn.topic for _, turn in turns}
    assert all(turn.facts and turn.question for _, turn in turns)
    assert not [turn.question for _, turn in turns if "<" in turn.question or "{" in turn.question]


def test_computed_answers_are_right(corpus: Corpus) -> None:
    rng = _seeded(2)
    for _ in range(300):
        for name in ("addition", "subtraction"):
            turn = corpus.skill_turn(name, rng)
            left, sign, number, _, result = turn.answer.rstrip(".").split()
            assert int(left) + (int(number) if sign == "+" else -int(number)) == int(result)
    answers = {corpus.skill_turn("capitals", rng).answer for _ in range(300)}
    assert "The capital of France is Paris." in answers


def test_conversations_refer_to_earlier_turns(corpus: Corpus) -> None:
    turns = [sample.turns for sample in islice(corpus.samples(5), 3000)]
    recalled = [
        (talk, turn) for talk in turns for turn in talk if turn.answer.startswith("Your name is ")
    ]
    assert recalled
    for talk, turn in recalled:
        name = turn.answer.removeprefix("Your name is ").rstrip(".")
        assert f"Nice to meet you, {name}!" in [earlier.answer for earlier in talk]


def test_grammar_expands_and_rejects() -> None:
    grammar = Grammar({"VERB": "start|stop"})
    rng = _seeded(1)
    found = {grammar.expand("(please |)<VERB> {x}", rng, {"x": "it"}) for _ in range(60)}
    assert found == {"start it", "stop it", "please start it", "please stop it"}
    with pytest.raises(ValueError, match="unbalanced"):
        grammar.expand("(a|b", rng, {})
    with pytest.raises(KeyError):
        grammar.expand("<NONE>", rng, {})


def test_noise_keeps_short_questions_readable() -> None:
    rng = _seeded(4)
    for _ in range(200):
        assert re.sub(r"[^0-9+ ]", "", dress("12 + 7", rng)).split() == ["12", "+", "7"]


def test_model_size_in_the_answers_is_true() -> None:
    pytest.importorskip("gguf")
    from tools.llama_gguf import LlamaShape

    config = ROOT / "src/openllm/demo/safetensors/config.json"
    millions = LlamaShape.from_config_json(config).parameters() / 1e6
    assert round(millions) == int(PARAMETERS_MILLIONS)


TINY = {
    "model_type": "llama", "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
}  # fmt: skip
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")


def _tiny_tokenizer() -> dict[str, object]:
    vocabulary = {text: index for index, text in enumerate(SPECIALS)}
    for letter in "abcdefgh":
        vocabulary[letter] = len(vocabulary)
    vocabulary["ab"] = len(vocabulary)
    added = [{"content": text, "id": index} for index, text in enumerate(SPECIALS)]
    return {"model": {"vocab": vocabulary, "merges": [["a", "b"]]}, "added_tokens": added}


@pytest.mark.parametrize("quantization", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("tied", [True, False])
def test_gguf_round_trip(tmp_path: Path, quantization: str, tied: bool) -> None:
    gguf = pytest.importorskip("gguf")
    np = pytest.importorskip("numpy")
    from tools.llama_gguf import LlamaShape, permute, write_llama_gguf

    shape = LlamaShape.from_config_json({**TINY, "tie_word_embeddings": tied})
    random_numbers = np.random.default_rng(0)
    weights = {
        name: random_numbers.standard_normal(size).astype(np.float32)
        for name, size in shape.tensor_shapes().items()
    }
    path = tmp_path / "tiny.gguf"
    write_llama_gguf(
        path, shape, weights.__getitem__, _tiny_tokenizer(), "{{ messages }}", quantization, "tiny"
    )

    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["general.name"] == "tiny"
    assert fields["llama.context_length"] == 128
    assert fields["llama.rope.freq_base"] == 20000.0
    assert fields["llama.attention.head_count_kv"] == 2
    assert fields["tokenizer.ggml.pre"] == "smollm"
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.ggml.eos_token_id"] == 2
    assert fields["tokenizer.ggml.tokens"][4] == "a"
    assert fields["tokenizer.ggml.tokens"][299] == "[UNUSED299]"
    assert fields["tokenizer.ggml.merges"] == ["a b"]
    assert fields["tokenizer.chat_template"] == "{{ messages }}"

    found = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in reader.tensors
    }
    assert ("output.weight" in found) is not tied
    assert len(found) == len(weights)
    near = {"F32": 0.0, "F16": 2e-3, "Q8_0": 2e-2}[quantization]
    queries = permute(weights["model.layers.1.self_attn.q_proj.weight"], 4)
    assert np.abs(found["blk.1.attn_q.weight"] - queries).max() <= near
    down = weights["model.layers.0.mlp.down_proj.weight"]
    assert np.abs(found["blk.0.ffn_down.weight"] - down).max() <= near
    assert np.array_equal(found["output_norm.weight"], weights["model.norm.weight"])


def test_gguf_writer_rejects_wrong_input(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    np = pytest.importorskip("numpy")
    from tools.llama_gguf import LlamaShape, write_llama_gguf

    with pytest.raises(ValueError, match="not a llama config"):
        LlamaShape.from_config_json({**TINY, "model_type": "qwen2"})
    shape = LlamaShape.from_config_json(TINY)
    with pytest.raises(ValueError, match="expected"):
        write_llama_gguf(
            tmp_path / "bad.gguf", shape, lambda _: np.zeros((1, 1)), _tiny_tokenizer(), None
        )
