"""Generation by transformers: answers of padded batches are those of each prompt alone; adapters generate, too."""

import pytest
import torch
from torch import nn

import smd_evo
from smd_evo import Evaluator, Lineage, RandomSubspace, RewardFitness, from_transformers, sample_mutations
from smd_evo.errors import InvalidType

transformers = pytest.importorskip("transformers", reason="transformers is an extra")

CHARACTERS = "0123456789+= "


class Characters:
    """What is asked of a tokenizer: numbers of characters, and back; number 13 ends a text."""

    eos_token_id = 13
    pad_token_id = None

    def __call__(self, texts):
        return {"input_ids": [[CHARACTERS.index(one) for one in text] for text in texts]}

    def batch_decode(self, rows, skip_special_tokens):
        assert skip_special_tokens
        return ["".join(CHARACTERS[one] for one in row if one < 13) for row in rows.tolist()]


@pytest.fixture
def model():
    """A language model that knows nothing, whose next tokens are far enough apart for any processor."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=14, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=13, eos_token_id=13
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model


PROMPTS = ["1+1=", "12+3=", "7=", "123+456=", "0+0="]


def digits(texts, references):
    return [sum(each in reference for each in text) for text, reference in zip(texts, references, strict=True)]


@pytest.fixture
def generate():
    return from_transformers(Characters(), max_new_tokens=5)


def test_a_batch_is_padded_on_the_left_and_answers_come_without_their_prompts(model, generate):
    together = generate(model, PROMPTS)
    assert together == [generate(model, [prompt])[0] for prompt in PROMPTS]
    assert len(set(together)) > 1
    assert all(len(text) <= 5 for text in together)


@pytest.mark.parametrize("kind", ["Bart", "T5"])
def test_a_batch_for_an_encoder_is_padded_on_the_right_as_it_counts_positions(kind, generate):
    torch.manual_seed(0)
    names = ("layers", "attention_heads")
    own = {
        "Bart": {"init_std": 2.0, **{f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in names}},
        "T5": {"initializer_factor": 3.0, "num_layers": 2, "num_heads": 2},
    }
    usual = {"vocab_size": 14, "d_model": 16, "decoder_start_token_id": 0, "eos_token_id": 13, "bos_token_id": 13}
    config = getattr(transformers, f"{kind}Config")(**usual, **own[kind], forced_eos_token_id=None)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    together = generate(model, PROMPTS)
    assert together == [generate(model, [prompt])[0] for prompt in PROMPTS]
    assert len(set(together)) > 1


def test_a_tokenizer_of_its_own_library_has_its_special_tokens(model):
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers comes with transformers")
    words = {character: number for number, character in enumerate(CHARACTERS)} | {"<end>": 13}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<end>"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<end>")
    before = fast.pad_token, fast.padding_side
    found = from_transformers(fast, max_new_tokens=5)(model, PROMPTS)
    expected = from_transformers(Characters(), max_new_tokens=5)(model, PROMPTS)
    assert [text.replace(" ", "") for text in found] == [text.replace(" ", "") for text in expected]
    assert (fast.pad_token, fast.padding_side) == before


def test_children_differ_and_the_parent_is_as_before(model, generate):
    evaluator = Evaluator(model, fitness=RewardFitness("digits", generate, digits, PROMPTS), batch_size=2)
    children = [Lineage(), *sample_mutations(0, 6, subspace=RandomSubspace(0.3), sigma=0.5), Lineage()]
    found = evaluator.evaluate(children).fitness.tolist()
    assert found[0] == found[-1]
    assert len(set(found)) > 2
    assert found[0] == pytest.approx(float(torch.tensor(digits(generate(model, PROMPTS), PROMPTS)).double().mean()))


def test_texts_are_drawn_with_the_same_numbers_for_every_child(model):
    drawing = from_transformers(Characters(), max_new_tokens=5, do_sample=True)
    evaluator = Evaluator(model, fitness=RewardFitness("digits", drawing, digits, PROMPTS), batch_size=2)
    one, *_, other = evaluator.scores(
        [Lineage(), *sample_mutations(0, 3, subspace=RandomSubspace(0.3), sigma=0.5), Lineage()]
    )
    assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21's
def test_an_adapter_generates_and_alone_is_mutated(model, generate):
    peft = pytest.importorskip("peft", reason="peft is an extra")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    evaluator = Evaluator(adapted, fitness=RewardFitness("digits", generate, digits, PROMPTS))
    assert all("lora" in name for name in evaluator.space.names)
    children = [Lineage(), *sample_mutations(0, 6, subspace=RandomSubspace(1.0), sigma=1.0)]
    assert len(set(evaluator.evaluate(children).fitness.tolist())) > 1


def test_a_run_from_a_model_and_a_reward(model, generate):
    prompts = [f"{one}+{other}=" for one in range(6) for other in range(5)]
    fitness = RewardFitness("digits", generate, digits, prompts)
    result = smd_evo.evolve(model, fitness=fitness, generations=2, children=4, sigma=0.3, callback=lambda _: None)
    before, after = result.numbers["rows"]
    assert after["fitness_gain"]["value"] == pytest.approx(after["fitness"] - before["fitness"])
    assert type(result.best) is type(model)


def test_what_cannot_generate_is_one_line(generate):
    fitness = RewardFitness("digits", generate, digits, PROMPTS)
    with pytest.raises(InvalidType, match=r"^parent: expected a network with generate\(\), got Linear; load it as"):
        Evaluator(nn.Linear(2, 2), fitness=fitness).evaluate([Lineage()])
    with pytest.raises(InvalidType, match=r"^tokenizer: expected one of transformers, got 'gpt2'"):
        from_transformers("gpt2", max_new_tokens=3)
