"""The part of values.schema.json that describes `settings`, from the program's own schema of the settings file."""

import json

# Definitions of the chart itself; all others come from the program.
OF_THE_CHART = {"Image", "Probe", "SecretCertificate", "SecretKey", "Secrets"}


def with_settings(chart_schema: str, program_schema: str) -> str:
    """The chart's schema with the definitions of `groundling settings --schema` in place of earlier ones."""
    chart, program = json.loads(chart_schema), json.loads(program_schema)
    definitions = {name: chart["definitions"][name] for name in sorted(OF_THE_CHART)}
    found = {name: _for_draft_07(part) for name, part in program["$defs"].items()}
    if clash := OF_THE_CHART & (found.keys() | {"Settings"}):
        raise ValueError(f"the program and the chart both define {', '.join(sorted(clash))}: rename the chart's")
    root = {key: value for key, value in program.items() if not key.startswith("$")}
    found["Settings"] = _for_draft_07(root)
    chart["definitions"] = definitions | dict(sorted(found.items()))
    return json.dumps(chart, indent=2, ensure_ascii=False) + "\n"


def _for_draft_07(part):
    """Helm 3.17 reads draft 7: definitions have another name, and what stands beside a reference is ignored.

    Defaults are left out, because those of the chart differ in places."""
    if isinstance(part, list):
        return [_for_draft_07(entry) for entry in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return {"$ref": part["$ref"].replace("#/$defs/", "#/definitions/")}
    # The properties of an object may themselves be called "default" or "format".
    return {
        key: {name: _for_draft_07(entry) for name, entry in value.items()} if key == "properties" else _for_draft_07(value)
        for key, value in part.items()
        if key not in ("default", "format", "title", "examples")
    }
