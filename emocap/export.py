"""The student as an ONNX file, whole or with 8-bit weights, and what either scores."""

import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import AutoModel
from transformers.modeling_outputs import SequenceClassifierOutput

from emocap.data.pairs import label_matrix
from emocap.data.schema import label_names
from emocap.evaluation.scoring import check_labels, load_config, load_model, score_table
from emocap.metrics import compute_metrics

__all__ = ["OnnxStudent", "export_onnx", "measure_export"]

PACKAGES = ("onnx", "onnxscript", "onnxruntime")

QUANTISED = ["Gather", "MatMul"]
"""Word embeddings and the products: 8-bit convolutions are slower than 32-bit ones without hardware of their own."""


def export_onnx(model_name_or_path: str, output: str | os.PathLike, *, int8: bool = False) -> Path:
    """Writes a student as one ONNX file for any batch size and caption length.

    Its inputs are the processor's: `input_ids` and `attention_mask` int64 `(batch, words)`; unless the student was
    trained on words alone `pixel_values` uint8 `(batch, 3, image_size, image_size)` and `pixel_mask` int64 `(batch,)`,
    0 in rows without a photo. Its output is `logits` float32 `(batch, num_labels)`. The file's metadata holds
    `id2label` and `temperature` as JSON.

    Args:
        model_name_or_path: folder or Hub id of a student.
        output: the file, ending in `.onnx`; it is replaced if it is there.
        int8: store word embeddings and the weights of matrix products in 8 bits, and quantise what enters the products
            on the fly (dynamic quantisation). `measure_export` says what that costs.

    Raises:
        ImportError: the packages of the extra `export` are not installed.
        ValueError: the checkpoint is no student, or `output` does not end in `.onnx`.
    """
    output = Path(output)
    check_packages()
    if output.suffix != ".onnx":
        raise ValueError(f"The output is '{output}'; expected a file name that ends in '.onnx'.")
    config = load_config(model_name_or_path)
    if config.model_type != "emocap_student":
        raise ValueError(f"'{model_name_or_path}' is a '{config.model_type}' checkpoint; students can be exported.")
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    model = AutoModel.from_pretrained(model_name_or_path, dtype=torch.float32).eval()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        whole, written = Path(folder, "whole.onnx"), Path(folder, "written.onnx")
        write_graph(model, whole)
        if int8:
            subgraphs = {"EnableSubgraph": True}  # the GRU's step is one
            quantize_dynamic(whole, written, QUANTISED, per_channel=True, extra_options=subgraphs)
        graph = onnx.load(written if int8 else whole)
        facts = {"id2label": config.id2label, "temperature": config.temperature}
        onnx.helper.set_model_props(graph, {name: json.dumps(value) for name, value in facts.items()})
        onnx.save(graph, written)
        written.replace(output)
    return output


class OnnxStudent:
    """An exported student in onnxruntime, called like the model itself: for `emocap.evaluation.scoring.score_table`.

    Args:
        path: the ONNX file.
        model_name_or_path: the checkpoint that it was exported from, for its configuration.
    """

    device = torch.device("cpu")

    def __init__(self, path: str | os.PathLike, model_name_or_path: str):
        check_packages()
        import onnxruntime

        self.config = load_config(model_name_or_path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input_names = [own.name for own in self.session.get_inputs()]

    def __call__(self, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """Logits float32 `(batch, num_labels)`. Without photos the pixels are zeros and masked."""
        batch, size = len(inputs["input_ids"]), self.config.image_size
        arrays = {name: values.numpy() for name, values in inputs.items()}
        if "pixel_values" in self.input_names and "pixel_values" not in arrays:
            arrays["pixel_values"] = np.zeros((batch, 3, size, size), dtype=np.uint8)
            arrays["pixel_mask"] = np.zeros(batch, dtype=np.int64)
        (logits,) = self.session.run(["logits"], {name: arrays[name] for name in self.input_names})
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))


def measure_export(
    path: str | os.PathLike, model_name_or_path: str, table: datasets.Dataset
) -> dict[str, dict[str, float]]:
    """Metrics of the checkpoint and of the file that was exported from it, on the same rows.

    Returns:
        `checkpoint` and `onnx`, each with the keys of [`~emocap.metrics.compute_metrics`].

    Raises:
        ValueError: the table has other emotions, or no such labels.
    """
    check_labels(load_config(model_name_or_path), label_names(table), model_name_or_path)
    truth = label_matrix(table, "labels")
    model, processor = load_model(model_name_or_path)
    models = {"checkpoint": model, "onnx": OnnxStudent(path, model_name_or_path)}
    return {name: compute_metrics(score_table(own, processor, table), truth) for name, own in models.items()}


def write_graph(model: torch.nn.Module, path: Path) -> None:
    """Exports the float32 student with dynamic batch and length."""
    config = model.config
    # two tensors: one alone would become one input
    inputs = {name: torch.ones(2, 7, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    if config.modalities != "text":
        inputs["pixel_values"] = torch.zeros(2, 3, config.image_size, config.image_size, dtype=torch.uint8)
        inputs["pixel_mask"] = torch.ones(2, dtype=torch.long)
    free = torch.export.Dim.DYNAMIC
    shapes = {name: {0: free, 1: free} if values.dim() == 2 else {0: free} for name, values in inputs.items()}
    torch.onnx.export(
        model,
        (),
        str(path),
        kwargs=inputs,
        input_names=list(inputs),
        output_names=["logits"],
        dynamic_shapes=shapes,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def check_packages() -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(f"Export needs {', '.join(missing)}: pip install 'emocap[export]'.")
