"""transformers' own common suites over emocap's classes: `EMOCAP_TRANSFORMERS_TESTS` names its folder `tests`.

That folder is part of a clone, and of the source distribution on PyPI (`pip download --no-deps --no-binary :all:
transformers==VERSION`). Without it nothing here runs: the behaviours have tests of our own beside this file.
"""

import importlib
import importlib.util
import os
import sys
import tempfile
import types
import unittest
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BertTokenizerFast, LlamaConfig, RobertaConfig

from emocap.models import (
    BottomUpConfig,
    BottomUpDetector,
    BottomUpImageProcessor,
    EmocapCaptionerConfig,
    EmocapCaptionerForConditionalGeneration,
    EmocapGridConfig,
    EmocapGridExtractor,
    EmocapImageProcessor,
    EmocapProcessor,
    EmocapRegionConfig,
    EmocapRegionExtractor,
    EmocapStudentConfig,
    EmocapStudentForMultiLabelClassification,
    EmocapTeacherConfig,
    EmocapTeacherForMultiLabelClassification,
)
from emocap.models.image_processing_bottom_up import resized_size
from emocap.models.modeling_emocap_captioner import SOFT_INPUTS
from tests.conftest import FILLERS, WORDS, make_tokenizer

TREE = Path(os.environ.get("EMOCAP_TRANSFORMERS_TESTS") or "absent")
if not (TREE / "test_modeling_common.py").is_file():
    pytest.skip("EMOCAP_TRANSFORMERS_TESTS does not name transformers' folder `tests`", allow_module_level=True)
if importlib.util.find_spec("parameterized") is None:
    pytest.skip("transformers' suites need `pip install parameterized`", allow_module_level=True)

PACKAGE = "transformers_tests"
BESIDE = {
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "fetch_hub_objects_for_ci": {"url_to_local_path": str},
}
"""What the suites import and the source distribution lacks: text generation, exporters and files of the Hub, none of
which concerns these classes."""


def suite(module: str) -> types.ModuleType:
    """A module of transformers' tests, under a name that is not that of our own tests."""
    if PACKAGE not in sys.modules:
        package = sys.modules[PACKAGE] = types.ModuleType(PACKAGE)
        package.__path__ = [str(TREE)]
        for name, content in BESIDE.items():
            path = TREE.parent / "utils" if "." not in name else TREE
            if (path / Path(*name.removeprefix(f"{PACKAGE}.").split("."))).with_suffix(".py").is_file():
                continue
            parent = name.rpartition(".")[0]
            if parent and parent not in sys.modules:
                sys.modules[parent] = types.ModuleType(parent)
                sys.modules[parent].__path__ = []
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(content)
    return importlib.import_module(f"{PACKAGE}.{module}")


modeling = suite("test_modeling_common")
processing = suite("test_processing_common")
image_processing = suite("test_image_processing_common")
VOCAB_SIZE = len(make_tokenizer())


class Tester:
    """What the modeling suite asks of a model: a tiny configuration and inputs for it."""

    __test__ = False
    batch_size, seq_length, num_hidden_layers, is_training, num_labels = 3, 7, 2, True, 5

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), self.get_inputs()


class TeacherTester(Tester):
    hidden_size, num_attention_heads, num_regions = 32, 2, 4
    key_length = encoder_seq_length = Tester.seq_length + num_regions

    def get_config(self) -> EmocapTeacherConfig:
        return EmocapTeacherConfig(
            vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=37,
            max_position_embeddings=40, visual_embedding_dim=16, num_labels=5,
        )  # fmt: skip

    def get_inputs(self) -> dict[str, torch.Tensor]:
        words, regions = (self.batch_size, self.seq_length), (self.batch_size, self.num_regions)
        return {
            "input_ids": torch.randint(1, VOCAB_SIZE, words),
            "attention_mask": torch.ones(words, dtype=torch.long),
            "visual_embeds": torch.randn(*regions, 16),
            "visual_attention_mask": torch.ones(regions, dtype=torch.long),
        }


class TextTeacherTester(TeacherTester):
    key_length = encoder_seq_length = Tester.seq_length  # regions pass no layer

    def get_config(self) -> EmocapTeacherConfig:
        words = RobertaConfig(
            vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=37,
            max_position_embeddings=40, type_vocab_size=1,
        )  # fmt: skip
        return EmocapTeacherConfig(
            text_config=words, fusion="late", pooling="mean", visual_embedding_dim=16, num_labels=5
        )


class StudentTester(Tester):
    hidden_size = 16
    expected_num_hidden_layers, encoder_seq_length = 3, Tester.batch_size  # GRU, CNN and fc1: a vector a pair each

    def get_config(self) -> EmocapStudentConfig:
        return EmocapStudentConfig(
            vocab_size=VOCAB_SIZE, word_embedding_size=16, gru_hidden_size=16, cnn_channels=[8, 16], image_size=20,
            fc_hidden_size=24, num_labels=5,
        )  # fmt: skip

    def get_inputs(self) -> dict[str, torch.Tensor]:
        words = (self.batch_size, self.seq_length)
        return {
            "input_ids": torch.randint(1, VOCAB_SIZE, words),
            "attention_mask": torch.ones(words, dtype=torch.long),
            "pixel_values": torch.randint(0, 256, (self.batch_size, 3, 20, 20), dtype=torch.uint8),
            "pixel_mask": torch.ones(self.batch_size, dtype=torch.long),
        }


class RegionTester(Tester):
    is_training = False
    expected_num_hidden_layers, encoder_seq_length, hidden_size = 1, 16, 16  # a map of the backbone

    def get_config(self) -> EmocapRegionConfig:
        return EmocapRegionConfig(
            backbone_channels=[8], anchor_sizes=[8], feature_dim=16, image_size=32, num_proposals=20, num_regions=9
        )

    def get_inputs(self) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randint(0, 256, (self.batch_size, 3, 32, 32), dtype=torch.uint8)}


class GridTester(Tester):
    is_training = False
    expected_num_hidden_layers, encoder_seq_length, hidden_size = 1, 4, 4  # the encoder's rows and columns

    def get_config(self) -> EmocapGridConfig:
        encoder = {"model_type": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 16, "intermediate_size": 20}
        return EmocapGridConfig(
            vision_config={**encoder, "num_hidden_layers": 2, "num_attention_heads": 2}, image_size=(32, 32),
            feature_dim=16,
        )  # fmt: skip

    def get_inputs(self) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(self.batch_size, 3, 32, 32)}


class BottomUpTester(Tester):
    is_training = False
    expected_num_hidden_layers, encoder_seq_length, hidden_size = 1, 4, 4  # res4

    def get_config(self) -> BottomUpConfig:
        return BottomUpConfig(
            shortest_edge=64, longest_edge=96, depths=(1, 1, 1, 1), stem_channels=4, bottleneck_channels=4,
            res2_channels=8, rpn_channels=8, anchor_sizes=(16, 32), num_proposals=20, pool_size=2, num_classes=5,
            num_attributes=3, min_regions=4, num_regions=6,
        )  # fmt: skip

    def get_inputs(self) -> dict[str, torch.Tensor]:
        return {"pixel_values": 50 * torch.randn(self.batch_size, 3, 64, 64)}


class CaptionerTester(Tester):
    batch_size = 7  # the suite fills smaller ones up with rows that have no places
    hidden_size, num_attention_heads, num_regions = 32, 2, 4
    seq_length = key_length = encoder_seq_length = 1 + num_regions + Tester.seq_length

    def get_config(self) -> EmocapCaptionerConfig:
        text_config = LlamaConfig(
            vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=37,
            max_position_embeddings=90, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        return EmocapCaptionerConfig(
            text_config=text_config, image_token_id=VOCAB_SIZE - 1, visual_embedding_dim=16, soft_hidden_size=16,
            num_region_heads=2, num_labels=5,
        )  # fmt: skip

    def get_inputs(self) -> dict[str, torch.Tensor]:
        soft, words = 1 + self.num_regions, (self.batch_size, Tester.seq_length)
        places = torch.full((self.batch_size, soft), VOCAB_SIZE - 1)
        regions = (self.batch_size, self.num_regions)
        return {
            "input_ids": torch.cat([places, torch.randint(3, VOCAB_SIZE - 1, words)], dim=1),
            "attention_mask": torch.ones(self.batch_size, self.seq_length, dtype=torch.long),
            "visual_embeds": torch.randn(*regions, 16),
            "visual_attention_mask": torch.ones(regions, dtype=torch.long),
            "region_boxes": torch.rand(*regions, 4),
            "wish_levels": torch.randn(self.batch_size, 5),
            "wish_mask": torch.ones(self.batch_size, 5, dtype=torch.long),
        }


class ModelSuite(modeling.ModelTesterMixin):
    model_tester_class = None
    test_torch_exportable = False  # tests/test_export.py has the student

    def setUp(self):
        torch.manual_seed(0)
        self.model_tester = self.model_tester_class(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and self.model_tester.is_training:  # multi-hot, where the suite thinks of one class
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, self.model_tester.num_labels)
        return inputs


class TeacherSuite(ModelSuite, unittest.TestCase):
    all_model_classes = (EmocapTeacherForMultiLabelClassification,)
    model_tester_class = TeacherTester
    test_resize_embeddings = False


class TextTeacherSuite(ModelSuite, unittest.TestCase):
    all_model_classes = (EmocapTeacherForMultiLabelClassification,)
    model_tester_class = TextTeacherTester
    test_resize_embeddings = False


class StudentSuite(ModelSuite, unittest.TestCase):
    all_model_classes = (EmocapStudentForMultiLabelClassification,)
    model_tester_class = StudentTester
    has_attentions = test_resize_embeddings = False


class CaptionerSuite(ModelSuite, unittest.TestCase):
    all_model_classes = (EmocapCaptionerForConditionalGeneration,)
    model_tester_class = CaptionerTester
    test_resize_embeddings = False
    additional_model_inputs = SOFT_INPUTS

    def test_generation_tester_mixin_inheritance(self):
        self.skipTest("the source distribution lacks the suite of generation; test_captioner.py has its behaviours")

    def test_model_base_model_prefix(self):
        self.skipTest("soft tokens stand before a whole language model: there is no body under a head")

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = modeling.ModelTesterMixin._prepare_for_class(self, inputs_dict, model_class)
        return inputs | ({"labels": inputs["input_ids"]} if return_labels else {})


class ExtractorSuite(ModelSuite):
    has_attentions = test_resize_embeddings = False

    def test_model_get_set_embeddings(self):
        """As transformers' own vision models have it: pixels are embedded by a convolution."""
        model = self.all_model_classes[0](self.model_tester.get_config())
        self.assertIsInstance(model.get_input_embeddings(), torch.nn.Conv2d)
        new = torch.nn.Conv2d(3, 8, 3)
        model.set_input_embeddings(new)
        self.assertIs(model.get_input_embeddings(), new)

    def test_retain_grad_hidden_states_attentions(self):
        self.skipTest("an extractor is for inference: its forward keeps no gradients")


class RegionSuite(ExtractorSuite, unittest.TestCase):
    all_model_classes = (EmocapRegionExtractor,)
    model_tester_class = RegionTester


class GridSuite(ExtractorSuite, unittest.TestCase):
    all_model_classes = (EmocapGridExtractor,)
    model_tester_class = GridTester

    def test_model_get_set_embeddings(self):
        self.skipTest("what embeds the pixels is the encoder's own, patches for one and a convolution for another")

    def test_capture_outputs_decorator(self):
        self.skipTest("the encoder records attentions, which an extractor does not give")


class BottomUpSuite(ExtractorSuite, unittest.TestCase):
    all_model_classes = (BottomUpDetector,)
    model_tester_class = BottomUpTester


class ImageProcessorTester(image_processing.ImageProcessingTester):
    def __init__(self, parent, **fields):
        super().__init__(parent, min_resolution=30, max_resolution=80, **fields)

    def _get_image_processing_classes(self):
        return {"torchvision": self.parent.image_processor_class}


class PhotoTester(ImageProcessorTester):
    def __init__(self, parent):
        super().__init__(parent, size={"height": 20, "width": 20})


class BottomUpPhotoTester(ImageProcessorTester):
    def __init__(self, parent):
        super().__init__(parent, size={"shortest_edge": 40, "longest_edge": 60})

    def expected_output_image_shape(self, images):
        sides = [image.size[::-1] if isinstance(image, Image.Image) else image.shape[:2] for image in images]
        if isinstance(images[0], torch.Tensor):
            sides = [image.shape[1:] for image in images]
        sides = [resized_size(*own, **self.size) for own in sides]
        return self.num_channels, *map(max, zip(*sides, strict=True))


class PhotoSuite(image_processing.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_class, image_processor_tester_class = EmocapImageProcessor, PhotoTester


class BottomUpPhotoSuite(image_processing.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_class, image_processor_tester_class = BottomUpImageProcessor, BottomUpPhotoTester
    test_cast_dtype = True


class ProcessorSuite(processing.ProcessorTesterMixin):
    processor_class = EmocapProcessor

    @classmethod
    def _setup_tokenizer(cls):
        words = ["lower", "newer", "upper", "older", "longer", "string"]
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *FILLERS, *sum(WORDS.values(), [])]
        return BertTokenizerFast(vocab={word: index for index, word in enumerate(vocabulary)})


class StudentProcessorSuite(ProcessorSuite, unittest.TestCase):
    @staticmethod
    def prepare_processor_dict():
        return {"image_size": 20}


class TeacherProcessorSuite(ProcessorSuite, unittest.TestCase):
    extractor = None

    @classmethod
    def prepare_processor_dict(cls):
        return {"region_extractor": cls.extractor}

    @classmethod
    def setUpClass(cls):

        cls.extractor = tempfile.mkdtemp()
        EmocapRegionExtractor(RegionTester(None).get_config()).save_pretrained(cls.extractor)
        super().setUpClass()
