"""Teachers whose words pass a text encoder of any kind, beside transformers' own class of it and a loop by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import processors
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    FNetConfig,
)

from emocap.cli import main
from emocap.data.pairs import PairDataset
from emocap.evaluation.baselines import caption_embeddings
from emocap.models import EmocapProcessor, EmocapTeacherConfig, EmocapTeacherForMultiLabelClassification
from emocap.models.pipeline_emocap import explain_pair
from emocap.training.frozen import PooledPairs, only_head_trains
from emocap.training.heads import head_of
from emocap.training.layers import layers_of
from emocap.training.surgery import blocks_of, check_transfer, transfer_model
from tests.conftest import REGION_DIM
from tests.text_encoders import ENCODERS, FIELDS, KINDS, LAYERS, make_own_tokenizer, make_teacher, random_inputs

HUB_KINDS = [kind for kind in KINDS if kind != "bert"]  # from a BERT's checkpoint comes a VisualBERT body


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, encoders) -> dict[str, str]:
    """A folder for each kind of encoder: a teacher of the tiny table's emotions over it, with its processor."""
    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(7)
    for kind, encoder in encoders.items():
        make_teacher(encoder).save_pretrained(folder / kind)
        EmocapProcessor(AutoTokenizer.from_pretrained(encoder)).save_pretrained(folder / kind)
    return {kind: str(folder / kind) for kind in encoders}


INFERENCE_KEYS = ("input_ids", "attention_mask", "visual_embeds", "visual_attention_mask")


def by_hand(model, encoder: str, inputs: dict[str, torch.Tensor], layers: list[int] | None = None) -> torch.Tensor:
    """Logits pair by pair, without padding: the encoder as transformers has it, means, and a linear layer."""
    own, part, logits = AutoModel.from_pretrained(encoder).eval(), model.region_embeddings, []
    for ids, mask, regions, seen in zip(*(inputs[name] for name in INFERENCE_KEYS), strict=True):
        heard = []
        if mask.any():
            found = own(input_ids=ids[mask.bool()][None], output_hidden_states=True)
            states = [found.last_hidden_state] if layers is None else [found.hidden_states[layer] for layer in layers]
            heard.append([state[0].mean(0) for state in states])
        if seen.any():
            features = (regions[seen.bool()] - model.region_normalizer.shift) * model.region_normalizer.scale
            projected = features @ part.visual_projection.weight.T + part.visual_projection.bias + part.visual_kind
            normed = F.layer_norm(projected, (32,), part.LayerNorm.weight, part.LayerNorm.bias, part.LayerNorm.eps)
            heard.append([F.gelu(normed).mean(0)] * len(layers or [-1]))
        if layers is not None:
            heard = [[F.normalize(mean, dim=0) for mean in means] for means in heard]
        logits.append(torch.stack([model.classifier(torch.cat(means)) for means in heard]).mean(0))
    return torch.stack(logits)


@pytest.mark.parametrize("layers", [None, [2, 0, -1]])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_logits_equal_a_loop_over_transformers_own_encoder(encoders, kind, layers):
    model, inputs = make_teacher(encoders[kind], pooled_layers=layers), random_inputs()
    model.region_normalizer.fit(torch.randn(50, REGION_DIM) * 3 + 1)
    torch.nn.init.normal_(model.region_embeddings.visual_projection.bias)
    assert type(model.text_encoder) is type(AutoModel.from_pretrained(encoders[kind]))
    expected = by_hand(model, encoders[kind], inputs, layers)
    torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-4, rtol=1e-4)
    whole = {name: values[:1] for name, values in inputs.items()}  # unpadded, without a mask
    whole.pop("attention_mask")
    torch.testing.assert_close(model(**whole).logits, expected[:1], atol=1e-4, rtol=1e-4)
    text = model(inputs["input_ids"], inputs["attention_mask"], output_hidden_states=True)
    alone = by_hand(
        model, encoders[kind], inputs | {"visual_attention_mask": torch.zeros(6, 5)} | only(inputs), layers
    )
    torch.testing.assert_close(text.logits[[0, 1, 3, 4, 5]], alone, atol=1e-4, rtol=1e-4)
    assert len(text.hidden_states) == LAYERS + 1 and model(**inputs).hidden_states is None


def only(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The rows with words, none with regions."""
    rows = [0, 1, 3, 4, 5]
    kept = {name: values[rows] for name, values in inputs.items()}
    return kept | {"visual_attention_mask": torch.zeros_like(kept["visual_attention_mask"])}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bert"])
@torch.no_grad()
def test_padding_on_either_side_and_type_ids_change_nothing(teachers, kind):
    """A BERT counts positions from the first column, so its padding stands on the right: the processor sees to it."""
    model, inputs = AutoModel.from_pretrained(teachers[kind]).eval(), random_inputs()
    left = dict(inputs)
    for row, mask in enumerate(inputs["attention_mask"]):
        shift = len(mask) - int(mask.sum())
        left["input_ids"] = left["input_ids"].clone()
        left["input_ids"][row] = inputs["input_ids"][row].roll(shift) if mask.any() else inputs["input_ids"][row]
    left["attention_mask"] = inputs["attention_mask"].flip(1)
    expected = model(**inputs).logits
    torch.testing.assert_close(model(**left).logits, expected, atol=1e-5, rtol=1e-4)
    types = torch.zeros_like(inputs["input_ids"])
    torch.testing.assert_close(model(**inputs, token_type_ids=types).logits, expected)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_captions_of_every_tokenizer_are_cut_padded_and_masked(kind, tiny_table):
    tokenizer = make_own_tokenizer(kind)
    tokenizer.padding_side = "left"
    processor = EmocapProcessor(tokenizer, max_length=6)
    captions = ["the dog", None, "a child at the party with laughter beside the house"]
    inputs = processor(text=captions[::2] + captions[:1], images=None)
    assert inputs["input_ids"].shape == (3, 6) and inputs["input_ids"][0, 0] == 0, "padded on the right"
    assert inputs["attention_mask"].tolist()[1] == [1] * 6 and inputs["input_ids"][1, -1] == 2, "the end stays"
    assert inputs["attention_mask"][0].tolist() == sorted(inputs["attention_mask"][0].tolist(), reverse=True)
    assert (inputs["input_ids"][0][inputs["attention_mask"][0] == 0] == 1).all()
    ids = processor.encode_captions(["", *captions[::2]])
    assert ids[0] == [0, 2] and all(own[0] == 0 and own[-1] == 2 and len(own) <= 6 for own in ids)
    pairs = PairDataset(tiny_table["train"], processor, modalities="both")
    batch = pairs.__getitems__(np.arange(len(pairs)))
    empty = [not own for own in tiny_table["train"]["captions"] for _ in (own or [""])]
    assert any(empty) and (batch["attention_mask"].sum(1) == 0).tolist() == empty
    padding = batch["input_ids"] == 1
    assert (padding <= (batch["attention_mask"] == 0)).all() and padding.any()


def test_a_framing_of_one_token_masks_an_empty_caption_too(tiny_table):
    tokenizer = make_own_tokenizer("bpe")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    pairs = PairDataset(tiny_table["train"], EmocapProcessor(tokenizer))
    batch = pairs.__getitems__(np.arange(len(pairs)))
    empty = [not own for own in tiny_table["train"]["captions"] for _ in (own or [""])]
    assert (batch["attention_mask"].sum(1) == 0).tolist() == empty


@pytest.mark.parametrize("kind", HUB_KINDS)
def test_from_body_takes_every_tensor_and_the_log_names_what_is_new(encoders, kind, caplog):
    model = EmocapTeacherForMultiLabelClassification.from_body(encoders[kind], num_labels=3, visual_embedding_dim=16)
    own, given = model.text_encoder.state_dict(), AutoModel.from_pretrained(encoders[kind]).state_dict()
    assert {name for name in given if not name.startswith("pooler.")} == set(own)
    for name, values in own.items():
        assert torch.equal(values, given[name]), name
    (message,) = [record.message for record in caplog.records if "new tensors" in record.message]
    new = message.split("unused")[0]
    assert new.count("'region_embeddings.") == 5 and new.count("'classifier.") == 2 and new.count("'") == 14
    config = model.config
    assert (config.fusion, config.pooling, config.text_config.model_type) == ("late", "mean", kind)
    assert (config.hidden_size, config.vocab_size, config.num_hidden_layers, config.pad_token_id) == (
        32,
        320,
        LAYERS,
        1,
    )


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_saving_and_loading_gives_the_same_model_and_configuration(teachers, tmp_path, kind):
    model, inputs = AutoModel.from_pretrained(teachers[kind]).eval(), random_inputs()
    config = AutoConfig.from_pretrained(teachers[kind])
    assert type(config) is EmocapTeacherConfig and type(config.text_config) is type(ENCODERS[kind])
    for name, value in ENCODERS[kind].to_dict().items():
        if name not in ("_name_or_path", "architectures", "dtype", "transformers_version"):
            assert config.text_config.to_dict()[name] == value, name
    again = EmocapTeacherForMultiLabelClassification.from_body(teachers[kind]).eval()
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    half = AutoModel.from_pretrained(tmp_path)
    assert {values.dtype for values in half.parameters()} == {torch.bfloat16}
    full = AutoModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert {values.dtype for values in full.parameters()} == {torch.float32}
    assert len(list(Path(teachers[kind]).glob("*.py"))) <= 6


LOADS = """
import json, torch
from transformers import AutoModel, AutoProcessor, pipeline

torch.set_num_threads(1)
found = {}
for kind, folder in json.loads(sys.argv[1]).items():
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        found[kind] = model(**processor(text=["the dog at a party", "rain"])).logits.tolist()
    rows = pipeline(model=folder, trust_remote_code=True)("the dog at a party", explain=True)
    assert len(rows[0]["explanation"]["tokens"]) >= 5
    model.save_pretrained(folder + "_again")
    assert "emocap" not in sys.modules
print("RESULT" + json.dumps(found))
"""


@torch.no_grad()
def test_without_emocap_every_kind_loads_and_gives_the_same_numbers(teachers, run_without_emocap):
    found = run_without_emocap(LOADS, teachers)
    for kind, folder in teachers.items():
        inputs = EmocapProcessor.from_pretrained(folder)(text=["the dog at a party", "rain"])
        expected = AutoModel.from_pretrained(folder).eval()(**inputs).logits
        torch.testing.assert_close(torch.tensor(found[kind]), expected)
        first, second = Path(folder), Path(folder + "_again")
        for path in [*first.glob("*.py"), first / "config.json"]:
            assert path.read_bytes() == (second / path.name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_an_explanation_sums_to_what_the_pair_adds(teachers, kind):
    model, processor = (
        AutoModel.from_pretrained(teachers[kind]).eval(),
        EmocapProcessor.from_pretrained(teachers[kind]),
    )
    inputs = dict(processor(text=["the dog at a party with laughter"]))
    inputs |= {"visual_embeds": torch.randn(1, 4, REGION_DIM), "visual_attention_mask": torch.ones(1, 4).long()}
    found = explain_pair(model, inputs | {"region_boxes": torch.rand(1, 4, 4)}, 2, processor.tokenizer)
    total = sum(found["token_weights"]) + sum(found["box_weights"])
    assert total == pytest.approx(found["logit"] - found["baseline_logit"], abs=2e-3)
    assert abs(found["logit"] - found["baseline_logit"]) > 0.02, "there is something to explain"
    assert len(found["tokens"]) == len(found["token_weights"]) == inputs["input_ids"].shape[1] - 2
    assert len(found["boxes"]) == 4 and "<s>" not in found["tokens"]
    silent = dict(inputs) | {"visual_embeds": model.region_normalizer.shift.expand(1, 4, -1)}
    says_nothing = 1 if model.get_input_embeddings().weight[1].any() else processor.tokenizer.mask_token_id
    framing = torch.isin(inputs["input_ids"], torch.tensor([0, 2]))
    silent["input_ids"] = torch.where(framing, inputs["input_ids"], says_nothing)
    assert found["baseline_logit"] == pytest.approx(model(**silent).logits[0, 2].item(), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_embeddings_and_layers_and_hold_every_tensor(teachers, kind):
    model = AutoModel.from_pretrained(teachers[kind])
    blocks = list(blocks_of(model))
    assert len(blocks) == LAYERS + 1
    assert [block[0] for block in blocks[1:]] == list(layers_of(model.text_encoder))
    held = [id(values) for block in blocks for part in block for values in part.parameters()]
    assert len(held) == len(set(held))
    assert {id(values) for values in model.parameters()} - set(held) == {id(v) for v in model.classifier.parameters()}


def test_a_pooler_is_a_block_and_its_output_is_read(encoders):
    model, inputs = make_teacher(encoders["roberta"], pooling="pooler"), random_inputs()
    assert len(list(blocks_of(model))) == LAYERS + 2
    encoder = AutoModel.from_pretrained(encoders["roberta"]).eval()
    with torch.no_grad():
        expected = model.classifier(encoder(inputs["input_ids"][:1]).pooler_output)
        torch.testing.assert_close(model(inputs["input_ids"][:1]).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_transfer_copies_and_freezes_the_first_blocks(teachers, kind):
    plan = check_transfer(None, teachers[kind], "bnb", num_layers="3")
    model, _, surgery = transfer_model(plan, np.full(5, 0.3))
    given = AutoModel.from_pretrained(teachers[kind]).state_dict()
    last = [f"text_encoder.{name}." for name, part in model.text_encoder.named_modules()
            if part is layers_of(model.text_encoder)[-1]]  # fmt: skip
    for name, entry in surgery["tensors"].items():
        above = name.startswith((*last, "classifier."))
        assert entry["frozen"] == (not above and not entry["buffer"]), name
        if not above:
            assert torch.equal(model.state_dict()[name], given[name]), name
        elif given[name].ndim > 1:
            assert not torch.equal(model.state_dict()[name], given[name]), name


@pytest.mark.parametrize("kind", ["mpnet", "deberta-v2"])
def test_a_head_on_pooled_outputs_is_the_whole_model(teachers, tiny_table, tmp_path, kind):
    model, processor = AutoModel.from_pretrained(teachers[kind]), EmocapProcessor.from_pretrained(teachers[kind])
    pairs = PairDataset(tiny_table["train"], processor, "soft_labels")
    model.requires_grad_(False)
    head_of(model).requires_grad_(True)
    assert only_head_trains(model)
    pooled = PooledPairs(model.train(), pairs, tmp_path / "files", batch_size=7)
    results = []
    for inputs in (pairs.__getitems__(range(3, 20)), pooled.__getitems__(range(3, 20))):
        torch.manual_seed(5)  # of the dropout before the head
        results.append(model(**inputs))
    torch.testing.assert_close(results[1].logits, results[0].logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(results[1].loss, results[0].loss, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head_init", ["collapse", "ridge"])
def test_a_student_gives_its_head_to_a_teacher_over_an_encoder(teachers, tiny_student, tiny_table, head_init):
    plan = check_transfer(tiny_student, teachers["mpnet"], "anb", head_init=head_init)
    model, _, surgery = transfer_model(plan, np.full(5, 0.3), tiny_table["train"] if head_init == "ridge" else None)
    for name, values in AutoModel.from_pretrained(teachers["mpnet"]).state_dict().items():
        assert torch.equal(model.state_dict()[name], values) != name.startswith("classifier."), name
        assert surgery["tensors"][name]["origin"].endswith(tiny_student) == name.startswith("classifier."), name
    with pytest.raises(ValueError, match="different vocabularies"):
        check_transfer(tiny_student, teachers["mpnet"], "anb", copy_word_embeddings=True)


def test_the_encoder_control_reads_any_encoder(encoders, teachers, tiny_table):
    table = tiny_table["test"]
    for kind in KINDS:
        (found,) = caption_embeddings(encoders[kind], [table])
        assert found.shape == (len(table), LAYERS + 1, 32)
        encoder, tokenizer = (
            AutoModel.from_pretrained(encoders[kind]).eval(),
            AutoTokenizer.from_pretrained(encoders[kind]),
        )
        for row in (0, 1, 4):
            means = []
            for caption in table[row]["captions"]:
                with torch.no_grad():
                    ids = torch.tensor([tokenizer(caption)["input_ids"]])
                    states = encoder(ids, output_hidden_states=True).hidden_states
                means.append(torch.stack([F.normalize(state[0].mean(0), dim=0) for state in states]))
            np.testing.assert_allclose(found[row], torch.stack(means).mean(0).numpy(), atol=1e-4)
        np.testing.assert_allclose(caption_embeddings(teachers[kind], [table])[0], found, atol=1e-4)


def train(out: Path, body: str, table: str, *flags: str) -> dict[str, float]:
    main(["train-teacher", "--model_name_or_path", body, "--dataset", table, "--output_dir", str(out), "--use_cpu",
          "--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--learning_rate", "0.001",
          "--disable_tqdm", "true", *flags])  # fmt: skip
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.parametrize(("kind", "flags"), [("roberta", ()), ("mpnet", ("--freeze_layers", "2")),
                                             ("deberta-v2", ("--freeze_layers", "1", "--pooled_layers", "1", "-1")),
                                             ("modernbert", ("--freeze_body", "true"))])  # fmt: skip
def test_training_moves_what_is_not_frozen_alone(encoders, tiny_table_dir, tmp_path, kind, flags):
    metrics = train(tmp_path / "run", encoders[kind], tiny_table_dir, *flags)
    assert 0 < metrics["map_macro"] <= 1
    model, before = AutoModel.from_pretrained(tmp_path / "run"), AutoModel.from_pretrained(encoders[kind])
    assert model.config.fusion == "late" and model.config.modalities == "both"
    number = int(flags[1]) if "--freeze_layers" in flags else LAYERS if flags else -1
    names = {id(values): name for name, values in model.text_encoder.named_parameters()}
    frozen = set() if number < 0 else {
        names[id(values)] for block in list(blocks_of(model))[: number + 1] for part in block
        for values in part.parameters() if id(values) in names
    }  # fmt: skip
    given = before.state_dict()
    for name, values in model.text_encoder.named_parameters():
        if name in frozen:
            assert torch.equal(values, given[name]), name
        elif values.ndim > 1:
            assert not torch.equal(values, given[name]), name
    moved = (model.region_embeddings.LayerNorm.weight != 1).any()
    assert moved == ("--freeze_body" not in flags)
    assert model.region_normalizer.shift.any(), "fitted to the features, as for every new projection"


@pytest.mark.parametrize("kind", ["mpnet", "deberta-v2", "modernbert"])
def test_dropout_of_frozen_layers_stays_off(encoders, kind):
    fields = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "attention_dropout": 0.5}
    config = AutoConfig.from_pretrained(encoders[kind], **fields)
    model = EmocapTeacherForMultiLabelClassification(
        EmocapTeacherConfig(text_config=config, fusion="late", pooling="mean", pooled_layers=[2])
    )
    inputs = random_inputs()["input_ids"]

    def equal() -> bool:
        model.train()
        return torch.equal(*(model.pooled_outputs(inputs)["pooled_output"] for _ in range(2)))

    assert not equal()
    for block in list(blocks_of(model))[:3]:
        for part in block:
            part.requires_grad_(False)
    assert equal()


@pytest.mark.parametrize(("fields", "message"), [
    ({"fusion": "early"}, "'early' with a text encoder 'mpnet'.*'late'"),
    ({"text_config": {"model_type": "no-such"}}, "'no-such', which transformers does not know"),
    ({"text_config": {"vocab_size": 5}}, "model_type None"),
    ({"pooled_layers": [4]}, "names layers from 0 to 3"),
])  # fmt: skip
def test_configurations_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EmocapTeacherConfig(**{"text_config": ENCODERS["mpnet"], "fusion": "late", "pooling": "mean", **fields})


@pytest.mark.parametrize(
    ("config", "pooling", "message"),
    [
        (ENCODERS["modernbert"], "pooler", "pooling is 'pooler', but a 'modernbert' has none"),
        (FNetConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1), "mean", "'fnet' takes no attention_mask"),
    ],
)
def test_encoders_that_do_not_fit_are_refused_before_their_weights_are_looked_for(tmp_path, config, pooling, message):
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        EmocapTeacherForMultiLabelClassification.from_body(str(tmp_path), pooling=pooling, num_labels=3)


@pytest.mark.parametrize(("kind", "positions"), [("mpnet", 38), ("roberta", 38), ("bert", 40), ("modernbert", 40)])
def test_captions_beyond_the_positions_are_refused_before_the_load(
    encoders, tiny_table_dir, tmp_path, kind, positions, monkeypatch, capsys
):
    monkeypatch.setattr(EmocapTeacherForMultiLabelClassification, "from_body", lambda *a, **k: pytest.fail("loaded"))
    too_many = str(positions + 1)
    with pytest.raises(SystemExit):
        train(tmp_path, encoders[kind], tiny_table_dir, "--max_length", too_many)
    said = capsys.readouterr().err
    assert f"--max_length is {too_many}" in said and f"'{encoders[kind]}' has positions for {positions} tokens" in said
    with pytest.raises(pytest.fail.Exception, match="loaded"):
        train(tmp_path, encoders[kind], tiny_table_dir, "--max_length", str(positions))


def test_a_tokenizer_that_does_not_pad_is_refused_before_the_load(
    encoders, tiny_table_dir, tmp_path, monkeypatch, capsys
):
    AutoConfig.from_pretrained(encoders["roberta"]).save_pretrained(tmp_path)
    tokenizer = make_own_tokenizer("bpe")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(EmocapTeacherForMultiLabelClassification, "from_body", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(SystemExit):
        train(tmp_path / "run", str(tmp_path), tiny_table_dir)
    assert f"The tokenizer of '{tmp_path}' has no padding token" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "fields"), [("albert", FIELDS), ("xlm", {"n_words": 30, "emb_dim": 8, "n_layers": 3,
                                                                          "n_heads": 2})])  # fmt: skip
def test_layers_that_are_not_one_list_cannot_be_counted(kind, fields):
    """ALBERT's share their weights, XLM's parts lie in lists of their own."""
    with pytest.raises(ValueError, match=f"'{kind}' has no one list of its 3 layers"):
        layers_of(AutoModel.from_config(AutoConfig.for_model(kind, **fields)))


@torch.no_grad()
def test_a_checkpoint_from_before_text_encoders_is_the_same_model(tiny_teacher, tmp_path):
    model = AutoModel.from_pretrained(tiny_teacher).eval()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("text_config", None) is None
    (tmp_path / "config.json").write_text(json.dumps(config))
    again, inputs = AutoModel.from_pretrained(tmp_path).eval(), random_inputs(words=6)
    inputs["input_ids"] %= 30
    assert again.config.text_config is None and torch.equal(again(**inputs).logits, model(**inputs).logits)
