"""RegionFeatures and PseudoLabels under Ray Data, on two workers of this machine: the jobs' bytes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import DatasetDict, Features, load_dataset

from emocap import PseudoLabels, RegionFeatures
from emocap.pseudo_labels.labelling import label_tables
from emocap.regions.extraction import extract_regions
from tests.test_readme import FUNCTIONS

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install emocap[ray]")
pytest.importorskip("ray.data", reason="Ray Data does not go with what is installed here", exc_type=ImportError)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    """A cluster of this machine, whose processes find this very emocap and compute as this one does."""
    variables = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": variables},
    )
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    yield
    ray.shutdown()


@pytest.fixture
def halves(tiny_table) -> DatasetDict:
    """Rows of which some have no photo or no caption, in two parts, each of which is to be one batch."""
    rows = tiny_table["train"]
    return DatasetDict({"train": rows.select(range(12)), "test": rows.select(range(12, 24))})


def blocks_of(tables: DatasetDict) -> "ray.data.Dataset":
    """A Ray data set with a block for each split."""
    return ray.data.from_arrow([split.with_format("arrow")[:].combine_chunks() for split in tables.values()])


def rows_of(result: "ray.data.Dataset", columns: list[str]) -> pa.Table:
    return pa.concat_tables(ray.get(result.to_arrow_refs())).select(columns).replace_schema_metadata()


def written(tables: DatasetDict, columns: list[str]) -> pa.Table:
    parts = [split.with_format("arrow")[:].select(columns) for split in tables.values()]
    return pa.concat_tables(parts).combine_chunks().replace_schema_metadata()


def same_values(result: "ray.data.Dataset", job: pa.Table) -> None:
    """Of columns that Ray keeps as tensors, floats by their bits."""
    rows = result.take_all()
    assert len(rows) == len(job)
    for name in job.column_names:
        for row, expected in zip(rows, job[name].to_pylist(), strict=True):
            found = row[name]
            if expected is None:
                assert found is None or np.isnan(found)
            else:
                own = [
                    np.asarray(value, dtype=np.float32) for value in (found if name == "caption_scores" else [found])
                ]
                wanted = [
                    np.asarray(value, np.float32) for value in (expected if name == "caption_scores" else [expected])
                ]
                assert [value.tobytes() for value in own] == [value.tobytes() for value in wanted], name


def test_regions_are_the_jobs_bytes(tmp_path, halves):
    job = extract_regions(halves, "scenes", tmp_path / "job")
    columns = list(RegionFeatures("scenes").features)
    result = blocks_of(halves).map_batches(
        RegionFeatures,
        fn_constructor_args=["scenes"],
        batch_format="pyarrow",
        batch_size=5,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    result = result.materialize()
    found = rows_of(result, [*columns, "image_id", "captions"]).combine_chunks()
    assert found.equals(written(job, [*columns, "image_id", "captions"]))
    numpy = blocks_of(halves).map_batches(RegionFeatures("scenes"), batch_size=5)
    same_values(numpy, written(job, columns))


def test_scores_are_the_jobs_bytes(tmp_path, halves, tiny_teacher):
    job = label_tables(halves, tiny_teacher, str(tmp_path / "job"))
    labels = PseudoLabels(tiny_teacher)
    columns = list(labels.features)
    arrow = blocks_of(halves).map_batches(labels, batch_format="pyarrow", batch_size=None).materialize()
    found = rows_of(arrow, [*columns, "image_id"]).combine_chunks()
    assert found.equals(written(job, [*columns, "image_id"]))
    same_values(blocks_of(halves).map_batches(labels, batch_format="numpy", batch_size=None), written(job, columns))


def test_the_readmes_lines_run(tmp_path, halves, tiny_teacher):
    code = "import ray" + FUNCTIONS.partition("import ray")[2]
    for written, own in (
        ("repartition(200)", "repartition(2)"),
        ("size=8", "size=1"),
        ('"num_gpus": 1, ', ""),
        ('"me/teacher"', repr(tiny_teacher)),
        ("/shared/scored", str(tmp_path / "scored")),
    ):
        assert written in code
        code = code.replace(written, own)
    names = {"table": halves["train"], "labels": PseudoLabels(tiny_teacher), "Features": Features}
    names |= {"load_dataset": load_dataset, "PseudoLabels": PseudoLabels}
    exec(compile(code, "README.md", "exec"), names)
    assert sorted(names["scored"]["image_id"]) == sorted(halves["train"]["image_id"])
    assert names["scored"].features == names["features"]
