"""Compares JSON lines with protobuf messages: the Python implementation must read each line as the message.

    python compare_json.py MODULES MESSAGES EXPORT

MODULES is the folder of the Python modules that protoc generated from proto/, MESSAGES a JSON list of messages as lists of
bytes, EXPORT the directory of an export as JSON lines. Prints the number of messages.
"""
import json
import pathlib
import sys

modules, messages, export = sys.argv[1:]
sys.path.insert(0, modules)

from google.protobuf import json_format  # noqa: E402
from groundling.v1 import annotation_pb2  # noqa: E402

expected = [annotation_pb2.ImageAnnotation.FromString(bytes(message)) for message in json.load(open(messages))]
lines = [line for file in sorted(pathlib.Path(export).glob("*.jsonl")) for line in open(file, encoding="utf-8")]
found = [json_format.Parse(line, annotation_pb2.ImageAnnotation()) for line in lines]
assert len(found) == len(expected), (len(found), len(expected))
for line, wanted in zip(found, expected):
    assert line == wanted, f"{line}\n\n{wanted}"
print(len(found))
