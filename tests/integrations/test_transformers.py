"""Networks of Hugging Face's transformers and adapters of PEFT, as they are: tiny ones of random weights."""

import pytest
import torch

from smd_evo import (
    BatchFitness,
    Evaluator,
    Lineage,
    ModuleFitness,
    RandomSubspace,
    SparseEnsemble,
    TakeOutput,
    finetune,
    sample_mutations,
    soup,
    split,
)
from smd_evo.core.parameters import ParameterSpace
from smd_evo.errors import InvalidType, InvalidValue, UnsupportedParameter

transformers = pytest.importorskip("transformers", reason="needs smd-evo[hf]")

# Upstream's own: peft calls what transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WORDS = 40
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
GPT2 = {"n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 1}


def bert(kind="BertForSequenceClassification"):
    torch.manual_seed(0)
    config = transformers.BertConfig(**BERT, vocab_size=WORDS, max_position_embeddings=24, num_labels=3)
    return getattr(transformers, kind)(config)


def gpt2(kind="GPT2LMHeadModel", **options):
    torch.manual_seed(0)
    config = transformers.GPT2Config(**GPT2, vocab_size=WORDS, pad_token_id=2, num_labels=3, **options)
    return getattr(transformers, kind)(config)


def texts(count=12):
    """Samples of different lengths."""
    generator = torch.Generator().manual_seed(1)
    lengths = [3 + number % 5 for number in range(count)]
    ids = [torch.randint(3, WORDS, (length,), generator=generator).tolist() for length in lengths]
    return [{"text": "?", "input_ids": each, "label": number % 3} for number, each in enumerate(ids)]


def children(count=4):
    return [Lineage(), *sample_mutations(3, count, subspace=RandomSubspace(0.2), sigma=0.3)]


MARGIN = BatchFitness("margin", "max", lambda logits, labels: logits.float().gather(1, labels[:, None])[:, 0])


class TestText:
    @pytest.mark.parametrize("fitness", ["cross_entropy", MARGIN], ids=["cross_entropy", "margin"])
    @pytest.mark.parametrize(
        "network", [bert(), gpt2("GPT2ForSequenceClassification")], ids=["bert", "gpt2, whose padding decides"]
    )
    def test_of_other_lengths_is_worth_the_same_in_any_batch(self, network, fitness):
        found = [Evaluator(network, texts(), fitness, batch_size=size).evaluate(children()) for size in (1, 5)]
        torch.testing.assert_close(found[0].fitness, found[1].fitness)
        assert len(set(found[0].fitness.tolist())) == 5

    def test_of_a_tokenizers_own_class_with_labels_inside_or_apart(self):
        encoding = transformers.BatchEncoding({"input_ids": [row["input_ids"] for row in texts()]})
        labels = [row["label"] for row in texts()]
        with_labels = transformers.BatchEncoding({**encoding, "labels": labels})
        tensors = transformers.BatchEncoding({"input_ids": torch.arange(3, 15).view(4, 3)})
        expected = Evaluator(bert(), texts(), batch_size=5).evaluate(children()).fitness
        for data in ((encoding, labels), with_labels):
            assert torch.equal(Evaluator(bert(), data, batch_size=5).evaluate(children()).fitness, expected)
        assert len(Evaluator(bert(), (tensors, torch.zeros(4).long())).evaluate(children()).fitness) == 5

    def test_a_decoder_is_given_the_labels_or_nothing_is_evaluated(self):
        """Without them BART's would be given the prompt, and T5's raises."""
        torch.manual_seed(0)
        sides, sizes = ("encoder", "decoder"), {"layers": 1, "attention_heads": 2, "ffn_dim": 16}
        own = {f"{side}_{name}": size for side in sides for name, size in sizes.items()}
        config = transformers.BartConfig(vocab_size=40, d_model=16, max_position_embeddings=16, **own)
        network = transformers.BartForConditionalGeneration(config).eval()
        samples = [{"input_ids": [5, 6, 7 + n], "labels": [8, 9 + n] + [10] * n} for n in range(4)]
        labels = [sample["labels"] for sample in samples]

        def score(logits, targets):
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
            return losses.sum(1) / (targets != -100).sum(1)

        loss = BatchFitness("loss", "min", score)
        found = Evaluator(network, (samples, labels), loss).evaluate([Lineage()]).fitness
        with torch.no_grad():
            alone = [network(**{name: torch.tensor([row]) for name, row in each.items()}).loss for each in samples]
        torch.testing.assert_close(found, torch.stack(alone).mean()[None].double(), rtol=1e-5, atol=1e-5)
        expected = (
            r"^data: expected labels or decoder_input_ids among the fields, for BartForC.*'s decoder, got input"
        )
        for data in (samples, [{**each, "labels": each["input_ids"]} for each in samples]):
            with pytest.raises(InvalidValue, match=expected):
                Evaluator(network, data, loss)
        decoded = [{**each, "decoder_input_ids": [2, *each["labels"][:-1]]} for each in samples]
        own = Evaluator(network, decoded, loss).evaluate([Lineage()]).fitness
        torch.testing.assert_close(own, found, rtol=1e-5, atol=1e-5)

    def test_dropout_is_off_and_the_mode_stays(self):
        network = bert().train()
        first, second = (Evaluator(network, texts(), reuse=False).evaluate(children()).fitness for _ in range(2))
        assert torch.equal(first, second)
        assert network.training

    def test_what_children_share_has_the_bits_of_full_passes(self):
        for network in (bert(), gpt2("GPT2ForSequenceClassification")):
            for select in ("all", "head", "*.1.*"):
                found = [
                    Evaluator(network, texts(), select=select, batch_size=4, reuse=reuse).evaluate(children()).fitness
                    for reuse in (True, False)
                ]
                assert torch.equal(*found)

    def test_the_models_own_loss_where_it_is_given_labels(self):
        network = bert()
        network.register_forward_hook(TakeOutput("loss"))
        data = {"input_ids": torch.arange(3, 15).view(4, 3), "labels": torch.tensor([0, 1, 2, 0])}
        mean = BatchFitness("loss", "min", lambda loss, labels: loss.expand(len(labels)))
        expected = Evaluator(bert(), data).evaluate(children()).fitness
        found = Evaluator(network, (data, data["labels"]), mean).evaluate(children()).fitness
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        with pytest.raises(
            InvalidValue, match=r"^outputs: expected 'loss' among those of BertFor.*, got Sequence.* of"
        ):
            Evaluator(network, data, mean).evaluate(children())

    def test_ensembles_and_soups(self):
        network, inputs = bert(), {"input_ids": torch.arange(3, 15).view(4, 3)}
        space = ParameterSpace(network.eval())
        with torch.no_grad():
            logits = [space.make_child(child)(**inputs).logits for child in children()[1:]]
        mean = torch.stack([each.softmax(-1) for each in logits]).mean(0)
        found = SparseEnsemble(network, children()[1:])(**inputs)
        torch.testing.assert_close(found.exp(), mean)
        made = space.make_child(soup(space, children()[1:]))
        assert made(**inputs).logits.shape == (4, 3)

    @pytest.mark.parametrize("fitness", ["cross_entropy", MARGIN], ids=["cross_entropy", "margin"])
    def test_without_logits_the_error_says_which_fields_there_are(self, fitness):
        with pytest.raises(InvalidType, match=r"of last_hidden_state, pooler_output.*TakeOutput\(NAME\)") as caught:
            Evaluator(bert("BertModel"), texts(), fitness).evaluate(children())
        assert "\n" not in str(caught.value)

    def test_a_name_says_which_output_counts(self):
        network = bert("BertModel")
        network.register_forward_hook(TakeOutput("pooler_output"))
        assert len(set(Evaluator(network, texts(), MARGIN).evaluate(children()).fitness.tolist())) == 5


@pytest.mark.filterwarnings("ignore:parent. expected an accuracy well above chance:UserWarning")  # it is untrained
def test_a_whole_experiment_with_its_controls(tmp_path):
    data = split(texts(90), fitness=30, validation=30)
    result = finetune(bert(), data, children=8, density=0.2, sigma=0.1, controls=True, shortlist=4)
    assert "temperature" in str(result.numbers)
    assert "head-refit" in str(result.numbers)
    inputs = {"input_ids": torch.arange(3, 15).view(4, 3)}
    assert result.ensemble(**inputs).shape == (4, 3)
    result.best.save_pretrained(tmp_path)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, result.best(**inputs).logits)


class TestGenerating:
    PROMPTS = torch.arange(3, 15).view(4, 3)

    def drawn(self, network):
        """A reward for sampled text: the mean of its tokens."""
        found = network.generate(
            self.PROMPTS, attention_mask=torch.ones_like(self.PROMPTS), do_sample=True, max_new_tokens=6
        )
        return found.float().mean()

    def test_samples_are_drawn_alike_for_each_child(self):
        evaluator = Evaluator(gpt2(), None, ModuleFitness("drawn", "max", self.drawn))
        before = torch.get_rng_state()
        found = evaluator.evaluate([*children(), *reversed(children())]).fitness.tolist()
        assert found == found[::-1]
        assert len(set(found)) > 1
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_child_by_itself_generates_the_same(self):
        space, (_, child, *_) = ParameterSpace(gpt2().eval()), children()
        greedy = {"do_sample": False, "max_new_tokens": 4, "attention_mask": torch.ones_like(self.PROMPTS)}
        texts = []
        fitness = ModuleFitness(
            "greedy", "max", lambda net: texts.append(net.generate(self.PROMPTS, **greedy)) or 0.0
        )
        Evaluator(space, None, fitness).evaluate([child])
        assert torch.equal(space.make_child(child).generate(self.PROMPTS, **greedy), texts[0])


class TestParameters:
    def test_tied_embeddings_count_once(self):
        network = gpt2()
        space = ParameterSpace(network)
        assert space.size == sum(parameter.numel() for parameter in network.parameters())
        assert network.lm_head.weight is network.transformer.wte.weight
        assert "lm_head.weight" not in space.names
        assert ParameterSpace(network, "head").names == ("transformer.wte.weight",)
        child = space.make_child(children()[1])
        assert child.lm_head.weight is child.transformer.wte.weight

    def test_untied_ones_do_not(self):
        network = gpt2(tie_word_embeddings=False)
        assert ParameterSpace(network, "head").names == ("lm_head.weight",)
        assert ParameterSpace(network).size - ParameterSpace(gpt2()).size == WORDS * 16

    def test_several_types_in_one_network(self):
        network = bert()
        network.bert.encoder.layer[0].to(torch.bfloat16)
        network.bert.encoder.layer[0].register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16(), *inputs[1:]))
        network.bert.encoder.layer[1].register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        found = Evaluator(network, {"input_ids": torch.arange(3, 15).view(4, 3), "labels": torch.arange(4) % 3})
        assert len(set(found.evaluate(children()).fitness.tolist())) == 5
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        kinds = {tensor.dtype for tensor in found.space.make_child(children()[1]).parameters()}
        assert kinds == {torch.float32, torch.bfloat16}

    def test_a_child_is_saved_and_loaded_as_the_library_does(self, tmp_path):
        child = ParameterSpace(bert()).make_child(children()[1])
        child.save_pretrained(tmp_path)
        again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert all(torch.equal(tensor, child.state_dict()[name]) for name, tensor in again.state_dict().items())

    def test_a_network_on_the_meta_device_is_refused(self):
        with torch.device("meta"):
            network = bert()
        with pytest.raises(UnsupportedParameter, match="it is on the meta device; load its weights first") as caught:
            Evaluator(network, texts())
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("select", ["all", "bert.embeddings"])
    def test_and_one_of_which_a_part_is(self, select):
        network = bert()
        network.classifier.to("meta")
        with pytest.raises(
            UnsupportedParameter, match=r"classifier\.weight: .* on the meta device; load its weights"
        ):
            Evaluator(network, texts(), select=select)

    def test_packed_weights_are_refused_where_they_are_selected(self):
        network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Identity())
        with pytest.raises(
            InvalidValue, match=r"got '1'; it is Identity, which has no parameters; packed weights are none$"
        ):
            ParameterSpace(network, "1")


class TestAdapters:
    @pytest.fixture(autouse=True)
    def peft(self):
        return pytest.importorskip("peft", reason="needs smd-evo[hf]")

    @pytest.fixture
    def network(self, peft):
        with torch.random.fork_rng(devices=[]):
            network = peft.get_peft_model(
                bert(), peft.LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
            )
            for name, parameter in network.named_parameters():  # an adapter that has learned something
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
        return network

    def test_nothing_else_is_mutated(self, network):
        space = ParameterSpace(network, "lora")
        assert len(space.names) == 8  # A and B of two matrices in two layers
        assert all(".lora_A." in name or ".lora_B." in name for name in space.names)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        child = space.make_child(children()[1]).state_dict()
        changed = {name for name, tensor in child.items() if not torch.equal(tensor, before[name])}
        assert changed
        assert changed <= set(space.names)
        head = set(ParameterSpace(network).names) - set(space.names)  # what PEFT trains besides
        assert head == {f"base_model.model.classifier.modules_to_save.default.{kind}" for kind in ("weight", "bias")}

    def test_children_of_an_adapter_are_evaluated(self, network):
        found = Evaluator(network, texts(), select="lora", batch_size=5).evaluate(children()).fitness
        assert len(set(found.tolist())) == 5

    def test_a_child_is_saved_and_loaded_as_an_adapter(self, network, peft, tmp_path):
        space = ParameterSpace(network.eval(), "lora")
        child = space.make_child(children()[1])
        child.save_pretrained(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
        assert not (tmp_path / "model.safetensors").exists()
        again, inputs = peft.PeftModel.from_pretrained(bert(), tmp_path).eval(), {"input_ids": torch.tensor([[5, 6]])}
        assert torch.equal(again(**inputs).logits, child(**inputs).logits)
        assert not torch.equal(again(**inputs).logits, network(**inputs).logits)

    @pytest.mark.parametrize("select", ["lora_A.other", "*.lora_A.other.*"])
    def test_one_that_is_not_there_is_told_which_are(self, network, select):
        with pytest.raises(
            InvalidValue, match=r"; of adapters there are default, as in select='\*.lora_\?.default.\*'$"
        ):
            ParameterSpace(network, select)
        assert ParameterSpace(network, "*.lora_?.default.*").names == ParameterSpace(network, "lora").names

    def test_one_that_is_loaded_frozen_says_so(self, network, peft, tmp_path):
        network.save_pretrained(tmp_path)
        with pytest.raises(InvalidValue, match=r"got \d+ frozen ones; load the adapter with is_trainable=True, as"):
            ParameterSpace(peft.PeftModel.from_pretrained(bert(), tmp_path), "lora")
        space = ParameterSpace(peft.PeftModel.from_pretrained(bert(), tmp_path, is_trainable=True), "lora")
        assert len(space.names) == 8
        for name, parameter in network.named_parameters():
            parameter.requires_grad_("classifier" in name)
        with pytest.raises(InvalidValue, match=r"got lora; 8 frozen ones have it: requires_grad_\(True\), is_tr"):
            ParameterSpace(network, "lora")

    def test_one_that_is_not_there_says_what_is(self):
        with pytest.raises(InvalidValue, match=r"^select: expected kinds that the network has .* got lora$"):
            ParameterSpace(bert(), "lora")

    def test_one_that_is_switched_off_or_merged_is_refused(self, network):
        network.merge_adapter()
        with pytest.raises(InvalidValue, match="parent: expected outputs that change with the selected weights"):
            Evaluator(network, texts(), select="lora").evaluate(children())
