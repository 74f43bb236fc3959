"""Loads exports with the programs that their formats are for, and compares what they find with the truth.

    python load_exports.py DIRECTORY SCENES

DIRECTORY holds truth.json and a folder for each export, SCENES the pictures. Prints a JSON object with the number of boxes
that each program found, and fails if one differs from the truth in a box, a score, a phrase or a count.
"""
import contextlib
import glob
import json
import math
import os
import shutil
import sys
import tarfile
import xml.etree.ElementTree

root, scenes = sys.argv[1:]
truth = json.load(open(os.path.join(root, "truth.json"), encoding="utf-8"))
annotations = truth["annotations"]
by_sequence = {annotation["sequence"]: annotation for annotation in annotations}
by_file = {annotation["file"]: annotation for annotation in annotations}
found_boxes = {}


def files(export, pattern):
    found = sorted(glob.glob(os.path.join(root, export, pattern)))
    assert found, f"{export}: no {pattern}"
    return found


def grid(fraction):
    """A coordinate of the demo's boxes as a whole number: they lie on the middle of the cells of a 32×32 grid."""
    number = round(fraction * 64)
    assert abs(fraction * 64 - number) < 0.01, fraction
    return number


def box(name, corners, score):
    """A box for comparisons. The scores of the test have two decimals."""
    has_score = score is not None and not (isinstance(score, float) and math.isnan(score))
    return (name, *map(grid, corners), round(float(score), 4) if has_score else None)


def true_boxes(key, name, only_scored=False, tasks=None):
    """All boxes of the truth, by a key of the annotation and a name of the entity."""
    boxes = []
    for annotation in annotations:
        for result in annotation["results"]:
            if tasks and result["task"] not in tasks:
                continue
            for entity in result["entities"]:
                for x0, y0, x1, y1, score in entity["boxes"]:
                    if score is not None or not only_scored:
                        boxes.append((key(annotation), *box(name(entity), (x0, y0, x1, y1), score)))
    return sorted(boxes, key=repr)


def phrase(entity):
    return entity["phrase"]


def category(entity):
    return truth["categories"][entity["phrase"]]


def compare(program, found, expected):
    found = sorted(found, key=repr)
    assert len(found) == len(expected), f"{program}: {len(found)} boxes, expected {len(expected)}"
    for one, other in zip(found, expected):
        assert one == other, f"{program}: {one}, expected {other}"
    found_boxes[program] = len(found)


def pixels_to_fractions(corners, annotation):
    width, height = annotation["width"], annotation["height"]
    x0, y0, x1, y1 = corners
    return x0 / width, y0 / height, x1 / width, y1 / height


# parquet


def map_of(value):
    """A map as a dict: programs give a dict, a list of pairs, or a list of keys and values."""
    if not isinstance(value, list):
        return value or {}
    return {pair["key"]: pair["value"] for pair in value} if value and isinstance(value[0], dict) else dict(value)


def rows_of_parquet(program, rows):
    rows = list(rows)
    expected_rows = [(a["sequence"], r["task"], r["text"]) for a in annotations for r in a["results"]]
    assert [(row["stream_sequence"], row["task_id"], row["text"]) for row in rows] == expected_rows, program
    found = []
    for row in rows:
        annotation = by_sequence[row["stream_sequence"]]
        assert (row["width_px"], row["height_px"], row["key"]) == tuple(annotation[k] for k in ("width", "height", "file"))
        assert map_of(row["labels"]) == annotation["labels"], (program, row["labels"])
        result = next(result for result in annotation["results"] if result["task"] == row["task_id"])
        assert len(row["entities"]) == len(result["entities"])
        for entity, wanted in zip(row["entities"], result["entities"]):
            assert (entity["start"], entity["end"]) == (wanted["start"], wanted["end"])
            score, expected = entity["score"], wanted["score"]
            assert (score is None) == (expected is None) and (score is None or abs(score - expected) < 1e-6)
            assert row["text"][entity["start"] : entity["end"]] == entity["phrase"]
            for index, place in enumerate(entity["boxes"]):
                corners = [place[side] for side in ("x0", "y0", "x1", "y1")]
                found.append((row["stream_sequence"], *box(entity["phrase"], corners, place["score"])))
                assert (place["refined"] is not None) == (index == 0)
                if index == 0:
                    assert abs(place["refined"]["x0"] - place["x0"] - 0.001) < 1e-9
    compare(program, found, true_boxes(lambda annotation: annotation["sequence"], phrase))


def parquet():
    import datasets
    import duckdb
    import polars
    import pyarrow.parquet

    paths = files("parquet", "shard-*.parquet")
    tables = [pyarrow.parquet.read_table(path) for path in paths]
    rows_of_parquet("parquet: pyarrow", [row for table in tables for row in table.to_pylist()])
    for path in paths:
        metadata = pyarrow.parquet.read_metadata(path)
        assert json.loads(metadata.metadata[b"groundling.units"])["width_px"].startswith("pixels")
        column = metadata.row_group(0).column(0)
        assert column.has_column_index and column.has_offset_index
    rows_of_parquet("parquet: polars", polars.read_parquet(paths).to_dicts())
    connection = duckdb.connect()
    query = connection.execute("select * from read_parquet(?)", [paths])
    names = [column[0] for column in query.description]
    rows_of_parquet("parquet: duckdb", [dict(zip(names, row)) for row in query.fetchall()])
    count = connection.execute(
        "select count(*) from (select unnest(e.boxes) from (select unnest(entities) as e from read_parquet(?)))", [paths]
    )
    assert count.fetchone()[0] == found_boxes["parquet: duckdb"]
    rows_of_parquet("parquet: datasets", datasets.load_dataset("parquet", data_files=paths, split="train"))


def parquet_pictures():
    import hashlib

    import pyarrow.parquet

    rows = []
    for path in files("parquet-pictures", "shard-*.parquet"):
        file = pyarrow.parquet.ParquetFile(path)
        assert all(file.metadata.row_group(group).num_rows <= 100 for group in range(file.num_row_groups))
        rows += file.read().to_pylist()
    for row in rows:
        digest = hashlib.sha256(row["image"]["bytes"]).hexdigest()
        assert digest == row["picture_sha256"] == by_sequence[row["stream_sequence"]]["sha256"]
    rows_of_parquet("parquet-pictures: pyarrow", rows)


def hub():
    import datasets

    loaded = datasets.load_dataset("parquet", data_files=files("hub", "shard-*.parquet"), split="train")
    assert isinstance(loaded.features["image"], datasets.Image), loaded.features
    found = []
    for row in loaded:
        annotation = by_sequence[row["image_id"]]
        assert row["image"].size == (annotation["width"], annotation["height"])
        objects = row["objects"]
        for (x, y, width, height), name, score in zip(objects["bbox"], objects["categories"], objects["scores"], strict=True):
            corners = pixels_to_fractions((x, y, x + width, y + height), annotation)
            found.append((annotation["file"], *box(name, corners, score)))
    compare("hub: datasets", found, true_boxes(lambda annotation: annotation["file"], category))


# JSON lines


def jsonl():
    import datasets

    loaded = datasets.load_dataset("json", data_files=files("jsonl", "shard-*.jsonl"), split="train")
    found = []
    for row in loaded:
        for result in row["results"]:
            for entity in result.get("entities") or []:
                for place in entity["boxes"]:
                    corners = [place["fractions"][side] for side in ("x0", "y0", "x1", "y1")]
                    found.append((row["annotation_id"], *box(entity["phrase"], corners, place.get("score"))))
    compare("jsonl: datasets", found, true_boxes(lambda annotation: annotation["annotation_id"], phrase))


# COCO


def coco():
    import supervision
    from pycocotools.coco import COCO

    found, scored, by_supervision, captions = [], [], [], []
    for path in files("coco", "annotations-*.json"):
        with contextlib.redirect_stdout(sys.stderr):
            data = COCO(path)
            results = data.loadRes(path.replace("annotations-", "results-"))
            texts = data.loadRes(path.replace("annotations-", "captions-"))
        assert sorted(data.imgs) == list(range(1, len(data.imgs) + 1))
        assert sorted(data.anns) == list(range(1, len(data.anns) + 1))
        for loaded, into in ((data, found), (results, scored)):
            for row in loaded.anns.values():
                picture = data.imgs[row["image_id"]]
                annotation = by_file[picture["file_name"]]
                x, y, width, height = row["bbox"]
                assert abs(row["area"] - width * height) < 1e-6 and row["iscrowd"] == 0
                corners = pixels_to_fractions((x, y, x + width, y + height), annotation)
                name = data.cats[row["category_id"]]["name"]
                into.append((annotation["file"], *box(name, corners, row.get("score"))))
        captions += [(data.imgs[row["image_id"]]["file_name"], row["caption"]) for row in texts.anns.values()]
        loaded = supervision.DetectionDataset.from_coco(images_directory_path=scenes, annotations_path=path)
        for name, detections in loaded.annotations.items():
            annotation = by_file[os.path.basename(name)]
            for corners, kind in zip(detections.xyxy.tolist(), detections.class_id):
                corners = pixels_to_fractions(corners, annotation)
                by_supervision.append((annotation["file"], *box(loaded.classes[kind], corners, None)))

    def file(annotation):
        return annotation["file"]

    compare("coco: pycocotools", found, true_boxes(file, category))
    assert sorted(scored, key=repr) == true_boxes(file, category, only_scored=True)
    assert sorted(captions) == sorted((a["file"], r["text"]) for a in annotations for r in a["results"])
    without_scores = sorted(((*found[:-1], None) for found in true_boxes(file, category)), key=repr)
    compare("coco: supervision", by_supervision, without_scores)


def coco_nouns():
    names, count = set(), 0
    for path in files("coco-nouns", "annotations-*.json"):
        data = json.load(open(path))
        names.add(json.dumps(data["categories"]))
        count += len(data["annotations"])
    assert len(names) == 1, "categories have the same numbers in all shards"
    nouns = {row["name"] for row in json.loads(names.pop())}
    assert {"snowman", "camera", "bulb", "pair"} <= nouns and "cameras" not in nouns
    found_boxes["coco: nouns"] = count
    assert count == found_boxes["coco: pycocotools"]


# WebDataset


def webdataset():
    import datasets
    import webdataset as wds

    paths = files("webdataset", "shard-*.tar")
    found, formats = [], set()
    for path in paths:
        with tarfile.open(path) as archive:
            names = archive.getnames()
        keys = [name.split(".")[0] for name in names]
        assert keys == sorted(keys), "the members of a sample are adjacent"
        pictures = {name.split(".", 1)[1] for name in names} - {"json", "txt"}
        assert len(pictures) == 1, f"{path} has pictures in several formats"
        formats |= pictures
        for sample in wds.WebDataset(path, shardshuffle=False).decode("pil"):
            message = sample["json"]
            annotation = by_sequence[int(sample["__key__"])]
            (picture,) = (sample[kind] for kind in pictures)
            assert picture.size == (annotation["width"], annotation["height"])
            assert sample["txt"] == annotation["results"][0]["text"]
            found += boxes_of_message(message, annotation)
    assert formats == {"jpg", "png", "webp"}
    expected = true_boxes(lambda annotation: annotation["file"], phrase)
    compare("webdataset: webdataset", found, expected)

    found = []
    for kind in sorted(formats):
        shards = [path for path in paths if path.endswith(f"-{kind}.tar")]
        for row in datasets.load_dataset("webdataset", data_files=shards, split="train"):
            annotation = by_sequence[int(row["__key__"])]
            assert row[kind].size == (annotation["width"], annotation["height"])
            found += boxes_of_message(row["json"], annotation)
    compare("webdataset: datasets", found, expected)


def boxes_of_message(message, annotation):
    for result in message["results"]:
        for entity in result.get("entities") or []:
            for place in entity["boxes"]:
                corners = [place["fractions"][side] for side in ("x0", "y0", "x1", "y1")]
                yield annotation["file"], *box(entity["phrase"], corners, place.get("score"))


# Label Studio


def label_studio():
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface(open(files("label-studio", "label-config.xml")[0], encoding="utf-8").read())
    found = []
    for path in files("label-studio", "tasks-*.json"):
        for task in json.load(open(path, encoding="utf-8")):
            annotation = by_file[task["data"]["image"].rsplit("/", 1)[1]]
            assert len(task["predictions"]) == len(annotation["results"])
            for prediction, result in zip(task["predictions"], annotation["results"]):
                problems = interface.validate_prediction(prediction, return_errors=True)
                assert problems == [], problems
                assert prediction["model_version"] == "kosmos-2-emoji@" + "d" * 12
                for region in prediction["result"]:
                    if region["type"] == "textarea":
                        assert region["value"]["text"] == [result["text"]]
                        continue
                    assert (region["original_width"], region["original_height"]) == (annotation["width"], annotation["height"])
                    x, y, width, height = (region["value"][side] / 100 for side in ("x", "y", "width", "height"))
                    (name,) = region["value"]["rectanglelabels"]
                    found.append((annotation["file"], *box(name, (x, y, x + width, y + height), region.get("score"))))
    compare("label-studio: label-studio-sdk", found, true_boxes(lambda annotation: annotation["file"], category))


# GRIT


def grit():
    import datasets

    loaded = datasets.load_dataset("parquet", data_files=files("grit", "shard-*.parquet"), split="train")
    assert set(loaded.column_names) == {"id", "url", "key", "caption", "width", "height", "noun_chunks", "ref_exps"}
    assert len(set(loaded["id"])) == len(loaded)
    found = []
    for row in loaded:
        annotation = by_sequence[int(row["key"])]
        assert row["url"].endswith("/" + annotation["file"]) and row["width"] == annotation["width"]
        assert len(row["noun_chunks"]) == len(row["ref_exps"])
        for chunk, (start, end, *corners, score) in zip(row["noun_chunks"], row["ref_exps"]):
            assert chunk[0] == start and chunk[1] <= end
            text = row["caption"][int(start) : int(end)]
            if text == "a pair of socks":
                assert row["caption"][int(chunk[0]) : int(chunk[1])] == "a pair"
            found.append((annotation["file"], *box(text, corners, score)))
    compare("grit: datasets", found, true_boxes(lambda annotation: annotation["file"], phrase))


# YOLO


def yolo():
    import supervision

    unpacked = os.path.join(root, "yolo-unpacked")
    os.mkdir(unpacked)
    for path in files("yolo", "shard-*.tar"):
        with tarfile.open(path) as archive:
            archive.extractall(unpacked, filter="data")
    description = files("yolo", "data.yaml")[0]
    loaded = supervision.DetectionDataset.from_yolo(
        os.path.join(unpacked, "images"), os.path.join(unpacked, "labels"), description
    )
    found, scored = [], []
    for name, detections in loaded.annotations.items():
        annotation = by_sequence[int(os.path.basename(name).split(".")[0])]
        for corners, kind in zip(detections.xyxy.tolist(), detections.class_id):
            corners = pixels_to_fractions(corners, annotation)
            found.append((annotation["file"], *box(loaded.classes[kind], corners, None)))
    for path in glob.glob(os.path.join(unpacked, "predictions", "*.txt")):
        annotation = by_sequence[int(os.path.basename(path).split(".")[0])]
        for line in open(path):
            kind, x, y, width, height, score = map(float, line.split())
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            scored.append((annotation["file"], *box(loaded.classes[int(kind)], corners, score)))

    def file(annotation):
        return annotation["file"]

    without_scores = sorted(((*found[:-1], None) for found in true_boxes(file, category)), key=repr)
    compare("yolo: supervision", found, without_scores)
    assert sorted(scored, key=repr) == true_boxes(file, category, only_scored=True)


# CVAT


def cvat():
    from datumaro.components.dataset import Dataset

    found = []
    for path in files("cvat", "annotations-*.xml"):
        place = os.path.join(root, "cvat-" + os.path.basename(path))
        os.makedirs(os.path.join(place, "images"))
        shutil.copy(path, os.path.join(place, "annotations.xml"))
        for image in xml.etree.ElementTree.parse(path).getroot().iter("image"):
            shutil.copy(os.path.join(scenes, image.get("name")), os.path.join(place, "images"))
        loaded = Dataset.import_from(place, "cvat")
        labels = [label.name for label in next(iter(loaded.categories().values()))]
        stems = {annotation["file"].split(".")[0]: annotation for annotation in annotations}
        for item in loaded:
            annotation = stems[item.id]
            for shape in item.annotations:
                corners = (shape.x, shape.y, shape.x + shape.w, shape.y + shape.h)
                corners = pixels_to_fractions(corners, annotation)
                score = shape.attributes.get("score")
                score = float(score) if score not in (None, "") else None
                found.append((annotation["file"], *box(labels[shape.label], corners, score)))
    compare("cvat: datumaro", found, true_boxes(lambda annotation: annotation["file"], category))


# FiftyOne: the program needs a MongoDB server, so only the layout of the files is compared.


def fiftyone():
    found = []
    for path in files("fiftyone", "shard-*/samples.json"):
        assert json.load(open(os.path.join(os.path.dirname(path), "metadata.json")))["media_type"] == "image"
        for sample in json.load(open(path, encoding="utf-8"))["samples"]:
            annotation = by_file[sample["filepath"].rsplit("/", 1)[1]]
            for result in annotation["results"]:
                field = sample["task_" + result["task"]]
                assert field["_cls"] == "Detections"
                for detection in field["detections"]:
                    x, y, width, height = detection["bounding_box"]
                    corners = (x, y, x + width, y + height)
                    found.append((annotation["file"], *box(detection["label"], corners, detection["confidence"])))
    compare("fiftyone: layout", found, true_boxes(lambda annotation: annotation["file"], category))


# OpenSearch: there is no server for the tests, so only the layout of the files is compared.


def opensearch():
    found, ids = [], set()
    for path in files("opensearch", "bulk-*.ndjson"):
        lines = [json.loads(line) for line in open(path, encoding="utf-8")]
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            ids.add(action["index"]["_id"])
            annotation = by_file[document["url"].rsplit("/", 1)[1]]
            for result in document["results"]:
                for entity in result["entities"]:
                    for place in entity["boxes"]:
                        corners = [place[side] for side in ("x0", "y0", "x1", "y1")]
                        found.append((annotation["file"], *box(entity["phrase"], corners, place["score"])))
    assert ids == {annotation["annotation_id"] for annotation in annotations}
    mapping = json.load(open(files("opensearch", "mapping.json")[0]))["mappings"]["properties"]
    assert mapping["results"]["properties"]["entities"]["properties"]["boxes"]["type"] == "nested"
    compare("opensearch: layout", found, true_boxes(lambda annotation: annotation["file"], phrase))


for load in (
    parquet, parquet_pictures, hub, jsonl, coco, coco_nouns, webdataset, label_studio, grit, yolo, cvat, fiftyone,
    opensearch,
):
    load()
print(json.dumps(found_boxes))
