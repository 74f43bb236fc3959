"""Reads the rows of `groundling annotate --format json` with protobuf, and prints them as protobuf writes them.

    python read_rows.py MODULES FILE

MODULES is the folder of the Python modules that protoc generated from proto/.
"""
import json
import sys

from google.protobuf import json_format


def main(modules, file):
    sys.path.insert(0, modules)
    from groundling.v1 import annotation_pb2, failure_pb2

    with open(file, encoding="utf-8") as rows:
        for line in rows:
            is_annotation = "annotation_id" in json.loads(line)
            # Unknown fields and values of another type are errors.
            message = json_format.Parse(line, annotation_pb2.ImageAnnotation() if is_annotation else failure_pb2.JobFailure())
            print(json.dumps(json_format.MessageToDict(message, preserving_proto_field_name=True)))


main(*sys.argv[1:])
