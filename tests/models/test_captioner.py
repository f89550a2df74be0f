"""The captioner against what its language model says of soft tokens laid out by hand."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

from emocap.models import EmocapCaptionerConfig, EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor
from tests.conftest import EMOTIONS, REGION_DIM
from tests.models.captioner import FAMILIES, make_captioner, random_regions, save_language_model

WISHES = ["sad", None, {"happy": 0.5, "angry": 1}, ("excited", "curious")]
TEXTS = ["the dog", "", "a", None]


@pytest.fixture(scope="module")
def language_models(tmp_path_factory) -> dict[str, str]:
    torch.manual_seed(5)
    return {name: save_language_model(tmp_path_factory.mktemp("lm") / name, name) for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def captioner(language_models, family):
    return make_captioner(language_models[family])


def four(processor, **changes) -> dict[str, torch.Tensor]:
    """Four pictures, one without a photo, with beginnings and wishes of all kinds."""
    return processor(**{"text": TEXTS, "emotions": WISHES, **random_regions(4), **changes})


@torch.no_grad()
def test_logits_are_those_of_soft_tokens_laid_before_the_words(captioner):
    model, processor = captioner
    inputs = four(processor)
    logits = model(**inputs).logits
    for row, (wish, text) in enumerate(zip(WISHES, TEXTS, strict=True)):
        count = int(inputs["visual_attention_mask"][row].sum())
        named = (
            dict.fromkeys(wish, 1) if isinstance(wish, tuple) else {wish: 1} if isinstance(wish, str) else wish or {}
        )
        pooled = torch.zeros(16)
        encoder = model.wish_encoder
        for name, weight in named.items():
            label = EMOTIONS.index(name)
            pooled += weight * processor.wish_high[label] * encoder.directions.weight[label]
            pooled += encoder.shown.weight[label]
        token = pooled + encoder.mlp(pooled) if named else encoder.no_wish.weight[0]
        soft = [model.soft_projection(token[None, None])]
        if count:
            features, boxes = (inputs[name][row : row + 1, :count] for name in ("visual_embeds", "region_boxes"))
            area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
            regions = model.region_projection(features)
            regions = regions + model.box_projection(torch.cat([boxes, area[..., None]], -1))
            for layer in model.region_layers:
                regions = by_hand(layer, regions)
            soft.append(model.soft_projection(regions))
        ids = torch.tensor([processor.tokenizer(text or "", add_special_tokens=False)["input_ids"]], dtype=torch.long)
        start = [torch.tensor([[processor.tokenizer.bos_token_id]])] if processor.tokenizer.bos_token else []
        embed = model.get_input_embeddings()
        whole = torch.cat([*map(embed, start), *soft, embed(ids)], dim=1)
        expected = model.language_model(inputs_embeds=whole).logits[0]
        torch.testing.assert_close(logits[row, -len(expected) :], expected, atol=1e-4, rtol=1e-4)


def test_what_starts_a_text_stands_before_the_wish(captioner, family):
    _, processor = captioner
    inputs = four(processor)
    for row, own in enumerate(inputs["input_ids"]):
        shown = own[inputs["attention_mask"][row].bool()].tolist()
        first = shown.index(processor.image_token_id)
        assert shown[:first] == ([processor.tokenizer.bos_token_id] if family == "gpt2" else [])


def by_hand(layer, states: torch.Tensor) -> torch.Tensor:
    """A region layer, head by head."""
    normed, width = layer.attention_norm(states), states.shape[-1]
    query, key, value = layer.query_key_value(normed).split(width, dim=-1)
    heads = []
    for own in torch.arange(width).chunk(layer.num_heads):
        scores = query[..., own] @ key[..., own].transpose(1, 2) / math.sqrt(len(own))
        heads.append(scores.softmax(-1) @ value[..., own])
    states = states + layer.output(torch.cat(heads, -1))
    return states + layer.mlp(layer.mlp_norm(states))


@torch.no_grad()
@pytest.mark.parametrize("name", ["visual_embeds", "region_boxes", "wish_levels"])
def test_what_is_masked_has_no_say(captioner, name):
    model, processor = captioner
    inputs = four(processor)
    mask = inputs["wish_mask" if name == "wish_levels" else "visual_attention_mask"].bool()
    logits = model(**inputs).logits
    junk = dict(inputs)
    junk[name] = torch.where(mask if mask.ndim == junk[name].ndim else mask[..., None], junk[name], 7.0)
    torch.testing.assert_close(model(**junk).logits, logits)
    other = dict(inputs) | {name: inputs[name] + 1}
    assert not torch.allclose(model(**other).logits, logits, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    "how",
    [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}, {"repetition_penalty": 1.3},
     {"do_sample": True, "num_return_sequences": 3, "top_k": 8}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("guidance", [None, 2.5])
def test_captions_are_the_same_with_cache_and_without_alone_and_in_a_batch(captioner, how, guidance):
    model, processor = captioner
    inputs = four(processor)
    how = {**how, "max_new_tokens": 8, "guidance_scale": guidance}

    def write(given, **more):
        torch.manual_seed(0)
        written = model.generate(**given, **how, **more)
        return written[:, given["input_ids"].shape[1] :]

    cached = write(inputs)
    assert (cached != processor.image_token_id).all() and len(cached.unique(dim=0)) > 2
    assert_same_captions(cached, write(inputs, use_cache=False), processor)
    assert_same_captions(cached, write(inputs, cache_implementation="static"), processor)
    if not how.get("do_sample"):
        times = how.get("num_return_sequences", 1)
        for row in range(4):
            count = int(inputs["visual_attention_mask"][row].sum())
            regions = {name: inputs[name][row : row + 1, : max(count, 1)].numpy() for name in random_regions(1)}
            alone = processor(text=[TEXTS[row]], emotions=[WISHES[row]], **regions)
            assert_same_captions(write(alone), cached[row * times : (row + 1) * times], processor)


def assert_same_captions(one: torch.Tensor, other: torch.Tensor, processor) -> None:
    def until_the_end(rows):
        ids = [own.tolist() for own in rows]
        return [own[: own.index(processor.end_token_id)] if processor.end_token_id in own else own for own in ids]

    assert until_the_end(one) == until_the_end(other)


@torch.no_grad()
def log_probabilities(model, processor, ids, row, wish) -> torch.Tensor:
    """Of the next word, of one row, without cache, mask or padding."""
    inputs = processor(text="", emotions=wish, **{name: own[row : row + 1] for name, own in ids["regions"].items()})
    tokens = torch.cat([inputs.pop("input_ids"), torch.tensor([ids["words"]], dtype=torch.long)], 1)
    inputs.pop("attention_mask")
    return model(input_ids=tokens, **inputs).logits[0, -1].log_softmax(-1)


def guided_loop(model, processor, regions, row, wish, scale, num_beams, steps) -> list[list[int]]:
    """Beam search in plain Python over guided probabilities, no caption ending; best first."""
    beams = [(0.0, [])]
    for _ in range(steps):
        grown = []
        for score, words in beams:
            ids = {"words": words, "regions": regions}
            wished, unwished = (log_probabilities(model, processor, ids, row, own) for own in (wish, None))
            guided = (unwished + scale * (wished - unwished)).log_softmax(-1)
            guided[[processor.image_token_id, processor.end_token_id]] = -math.inf
            grown += [(score + own.item(), [*words, word]) for word, own in enumerate(guided)]
        beams = sorted(grown, key=lambda own: -own[0])[:num_beams]
    return [words for _, words in beams]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_guidance_keeps_the_picture_on_both_sides(captioner, num_beams, scale):
    model, processor = captioner
    regions, wishes = random_regions(3), ["sad", ("happy", "angry"), {"curious": 0.5}]
    ends = [processor.image_token_id, processor.end_token_id]
    written = model.generate(
        **processor(text=[""] * 3, emotions=wishes, **regions),
        guidance_scale=scale,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=5,
        suppress_tokens=ends,
    )[:, -5:]
    for row, wish in enumerate(wishes):
        expected = guided_loop(model, processor, regions, row, wish, scale, num_beams, 5)
        assert written[row * num_beams : (row + 1) * num_beams].tolist() == expected


def test_guidance_draws_from_the_guided_distribution(captioner):
    model, processor = captioner
    regions = random_regions(1)
    inputs = processor(text="", emotions={"sad": 1.5}, **regions)
    torch.manual_seed(1)
    written = model.generate(
        **inputs, guidance_scale=1.5, do_sample=True, top_k=0, num_return_sequences=4000, max_new_tokens=1
    )[:, -1]
    ids = {"words": [], "regions": regions}
    wished, unwished = (log_probabilities(model, processor, ids, 0, own) for own in ({"sad": 1.5}, None))
    guided = unwished + 1.5 * (wished - unwished)
    guided[processor.image_token_id] = -math.inf
    shares = torch.bincount(written, minlength=len(guided)) / 4000
    assert (shares - guided.softmax(-1)).abs().max() < 0.04


def test_guidance_without_a_wish_changes_nothing(captioner):
    model, processor = captioner
    inputs = four(processor, emotions=None)
    assert "wish_levels" not in inputs
    plain = model.generate(**inputs, max_new_tokens=6)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, guidance_scale=3.0), plain)


def test_the_loss_is_that_of_the_words(captioner):
    model, processor = captioner
    inputs = four(processor, text=["the dog", "a child", "rain at", "the box"])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    is_soft = inputs["input_ids"] == processor.image_token_id
    labels = labels.masked_fill(is_soft.flip(1).cumsum(1).flip(1) > 0, -100)  # the start token stands before them
    output = model(**inputs, labels=labels)
    entries = [
        -output.logits[row, place - 1].log_softmax(-1)[labels[row, place]]
        for row, place in (labels != -100).nonzero().tolist()
    ]
    torch.testing.assert_close(output.loss, torch.stack(entries).mean())
    model.config.label_smoothing = 0.2
    torch.testing.assert_close(model(**inputs, labels=labels).loss, output.loss), "in training alone"
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    smoothed = model.train()(**inputs, labels=labels).loss
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=0.2)
    torch.testing.assert_close(smoothed, expected)


def test_a_frozen_language_model_stands_still_and_lets_gradients_through(captioner):
    model, processor = captioner
    model.language_model.requires_grad_(False)
    inputs = four(processor, text=["the dog", "a", "rain", "box"])
    model.train()
    assert not model.language_model.training and model.wish_encoder.training
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == (
            not name.startswith("language_model")
        )


@torch.no_grad()
def test_saved_and_loaded_it_says_the_same(captioner, tmp_path):
    model, processor = captioner
    inputs = four(processor)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForImageTextToText):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is EmocapCaptionerForConditionalGeneration
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)
        assert loaded.generation_config.eos_token_id == processor.end_token_id
        embedding, head = loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight
        assert (embedding is head) == model.config.text_config.tie_word_embeddings
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is EmocapCaptionerProcessor and again.to_dict() == processor.to_dict()
    regions = random_regions(2)
    for name, value in again(text=["a", "the dog"], emotions=["sad", None], **regions).items():
        assert torch.equal(value, processor(text=["a", "the dog"], emotions=["sad", None], **regions)[name])
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.generate(**inputs, max_new_tokens=3, guidance_scale=2.0).shape[0] == 4


def test_a_gguf_file_becomes_a_captioner_that_can_be_saved(language_models, tmp_path):
    """A file of full weights: what is unpacked is marked as quantized all the same, and such is not saved."""
    gguf = pytest.importorskip("gguf")
    write_gguf(gguf, language_models["llama"], tmp_path / "tiny.gguf")
    model, processor = make_captioner(language_models["llama"])
    other = EmocapCaptionerForConditionalGeneration.from_language_model(
        tmp_path / "tiny.gguf", processor, visual_embedding_dim=REGION_DIM, soft_hidden_size=16, num_region_heads=2
    )
    other.save_pretrained(tmp_path / "saved")
    assert "quantization" not in (tmp_path / "saved" / "config.json").read_text()
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([[5, 7, 9, 3]])
    told, expected = (own.language_model(ids).logits[..., : processor.image_token_id] for own in (loaded, model))
    torch.testing.assert_close(told, expected, atol=1e-4, rtol=1e-4)
    loaded.language_model.save_pretrained(tmp_path / "language_model")


def write_gguf(gguf, folder: str, path) -> None:
    """A Llama in float32 as llama.cpp stores it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, values in model.state_dict().items():
        own = values.numpy()
        if ".q_proj." in name or ".k_proj." in name:  # halves of each head interleaved
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            own = own.reshape(heads, 2, -1, own.shape[1]).swapaxes(1, 2).reshape(own.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), own.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LOADS = """
import json, sys
import numpy as np, torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

folder = json.loads(sys.argv[1])
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
regions = {name: np.array(own) for name, own in json.load(open(folder + "/regions")).items()}
inputs = processor(text=["the", ""], emotions=["sad", None], **regions)
found = []
for auto_class in (AutoModel, AutoModelForImageTextToText):
    model = auto_class.from_pretrained(folder, trust_remote_code=True)
    found.append(model.generate(**inputs, max_new_tokens=5, guidance_scale=2.0, num_beams=2).tolist())
pipe = pipeline("image-text-to-text", folder, trust_remote_code=True)
found.append(pipe(text="the", emotions="sad", max_new_tokens=5)[0]["generated_text"])
model.save_pretrained(folder + "_again")
processor.save_pretrained(folder + "_again")
assert "emocap" not in sys.modules
print("RESULT" + json.dumps(found))
"""


def test_without_emocap_it_writes_the_same(language_models, tmp_path, run_without_emocap):
    model, processor = make_captioner(language_models["qwen2"])
    folder = tmp_path / "captioner"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    regions = random_regions(2)
    (folder / "regions").write_text(json.dumps({name: own.tolist() for name, own in regions.items()}))
    found = run_without_emocap(LOADS, str(folder))
    inputs = processor(text=["the", ""], emotions=["sad", None], **regions)
    expected = model.generate(**inputs, max_new_tokens=5, guidance_scale=2.0, num_beams=2).tolist()
    assert found[:2] == [expected, expected]
    pipe = pipeline("image-text-to-text", str(folder))
    assert found[2] == pipe(text="the", emotions="sad", max_new_tokens=5)[0]["generated_text"]
    files = {path.name for path in folder.glob("*.py")}
    assert len(files) <= 6 and files == {path.name for path in (tmp_path / "captioner_again").glob("*.py")}


def test_the_pipeline_reads_photos(language_models, tmp_path):
    from tests.models.test_regions import make_extractor, photos

    make_extractor(feature_dim=REGION_DIM).save_pretrained(tmp_path / "captioner" / "extractor")
    model, processor = make_captioner(language_models["gpt2"], region_extractor="./extractor")
    model.save_pretrained(tmp_path / "captioner")
    processor.save_pretrained(tmp_path / "captioner")
    processor = AutoProcessor.from_pretrained(tmp_path / "captioner")
    pipe, (photo,) = pipeline("image-text-to-text", str(tmp_path / "captioner")), photos(1)
    (found,) = pipe(photo, text="the", emotions={"sad": 0.7}, generate_kwargs={"guidance_scale": 2.0})
    inputs = processor(images=photo, text="the", emotions={"sad": 0.7})
    assert inputs["visual_attention_mask"].sum() > 1
    written = model.generate(**inputs, guidance_scale=2.0)[0]
    assert found["generated_text"] == processor.decode(written, skip_special_tokens=True)
    both = pipe([photo, photo], text=["", ""], emotions=["sad", ("happy", "angry")])
    for wish, own in zip(["sad", ("happy", "angry")], both, strict=True):
        written = model.generate(**processor(images=photo, text="", emotions=wish))[0]
        assert own["generated_text"] == processor.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize(
    "given, told",
    [
        ({}, "nothing to caption"),
        ({"images": "photo.png"}, "names no region_extractor"),
        ({"text": "", "emotions": "gloomy"}, "no emotion 'gloomy'; the captioner knows happy, sad"),
        ({"text": "", "emotions": ""}, "wish is empty"),
        ({"text": "", "emotions": {}}, "wish is empty"),
        ({"text": "", "emotions": [()]}, "wish is empty"),
        ({"text": "", "emotions": {"sad": -1}}, "weight of 'sad' is -1; .* away_from"),
        ({"text": "", "emotions": {"sad": math.nan}}, "weight of 'sad' is nan"),
        ({"text": "", "emotions": {"sad": math.inf}}, "weight of 'sad' is inf"),
        ({"text": "", "emotions": {"sad": "much"}}, "weight of 'sad' is 'much'"),
        ({"text": "", "emotions": {"sad": True}}, "weight of 'sad' is True"),
        ({"text": "", "emotions": np.ones(4)}, r"shape \(4,\); expected a weight for each of the 5"),
        ({"text": "", "emotions": np.array([1, -1, 0, 0, 0])}, "weight of 'sad' is -1"),
        ({"text": [""], "emotions": ["sad", "happy"]}, "1 texts, 2 wishes came .*; a list is one entry a picture"),
        ({"text": "", "emotions": ["sad"], "away_from": ["angry", "sad"]}, "2 wishes came for 1 picture"),
        ({"text": "", "emotions": 3}, "A wish came as int"),
        ({"text": "", "emotions": "sad", "away_from": "sad"}, "'sad' is wished for and to be kept away from"),
        ({"text": "", "emotion_scores": [[0.5] * 4]}, "one for each of the 5 emotions"),
        ({"text": "", "emotion_scores": [[1.5] * 5]}, "probabilities from 0 to 1"),
        ({"text": [3]}, "A text came as int"),
        ({"text": []}, "no picture in the batch"),
        ({"visual_embeds": np.ones((1, 2, REGION_DIM))}, "without region_boxes"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_a_sentence(language_models, given, told):
    _, processor = make_captioner(language_models["qwen2"])
    with pytest.raises(ValueError, match=told):
        processor(**given)


def test_the_model_tells_what_does_not_fit(language_models):
    model, processor = make_captioner(language_models["qwen2"])
    regions = random_regions(2, [3, 1])
    inputs = processor(text=["", ""], **regions)
    with pytest.raises(ValueError, match="Row 1 has 2 places for 4 soft tokens"):
        model(**inputs | {"visual_attention_mask": torch.ones(2, 3, dtype=torch.long)})
    with pytest.raises(ValueError, match="8-d, but the captioner reads 16-d"):
        model(**inputs | {"visual_embeds": inputs["visual_embeds"][..., :8]})
    with pytest.raises(ValueError, match="100 tokens came .*96 positions"):
        model(input_ids=torch.ones(1, 100, dtype=torch.long))
    with pytest.raises(ValueError, match="98 tokens came or are to be written, .* 96 positions"):
        model.generate(**inputs, max_new_tokens=98 - inputs["input_ids"].shape[1])
    with pytest.raises(ValueError, match="negative_prompt_ids"):
        model.generate(**inputs, guidance_scale=2.0, negative_prompt_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="guidance_scale is nan"):
        model.generate(**inputs, guidance_scale=math.nan)
    with pytest.raises(ValueError, match="wish_high has 3 entries, but there are 2 emotions"):
        EmocapCaptionerConfig(wish_high=[1.0, 2.0, 3.0])


def test_wishes_in_numbers(language_models, rng):
    _, processor = make_captioner(language_models["qwen2"])
    high, mean, std = (np.array(getattr(processor, f"wish_{name}")) for name in ("high", "mean", "spread"))

    def levels(**given):
        inputs = processor(text=[""] * 2, **given)
        return np.where(inputs["wish_mask"], inputs["wish_levels"], np.nan)

    nan = np.nan
    both = levels(emotions={"sad": 0.5, "angry": 2}, away_from="happy")
    np.testing.assert_allclose(both, [[-high[0], 0.5 * high[1], nan, nan, 2 * high[4]]] * 2, rtol=1e-6)
    vector = np.array([nan, 0.5, nan, nan, 2])
    np.testing.assert_array_equal(levels(emotions=vector), levels(emotions={"sad": 0.5, "angry": 2}))
    np.testing.assert_array_equal(levels(emotions=torch.tensor(vector)), levels(emotions=vector))
    each = levels(emotions=["sad", ("sad", "happy")])
    np.testing.assert_allclose(each, [[nan, high[1], nan, nan, nan], [high[0], high[1], nan, nan, nan]], rtol=1e-6)
    scores = rng.uniform(0.01, 0.99, (2, 5))
    expected = (np.log(scores / (1 - scores)) - mean) / std
    np.testing.assert_allclose(levels(emotion_scores=scores), expected, rtol=1e-5)
    mixed = levels(emotions=[None, "sad"], emotion_scores=[scores[0], None])
    np.testing.assert_allclose(mixed, [expected[0], each[0]], rtol=1e-5)
    nobody = processor(text=[""] * 2, emotions=[None, "sad"])
    assert nobody["wish_mask"].sum(1).tolist() == [0, 1]


def test_no_place_of_a_soft_token_is_written(captioner):
    model, processor = captioner

    def raise_it(module, inputs, logits):  # the likeliest of all words, were it one
        return logits.index_fill(-1, torch.tensor([processor.image_token_id]), 1e3)

    hook = model.get_output_embeddings().register_forward_hook(raise_it)
    inputs = four(processor)
    for options in ({}, {"do_sample": True, "top_k": 0}, {"num_beams": 2}, {"guidance_scale": 2.0}):
        written = model.generate(**inputs, max_new_tokens=6, **options)[:, inputs["input_ids"].shape[1] :]
        assert not (written == processor.image_token_id).any(), options
    hook.remove()
