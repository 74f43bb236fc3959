"""Checks of the dashboard, the alerts and the runbook against each other and against docs/metrics.md."""

import re

from pool import ROOT

# What the dashboard and the alerts may use besides the workers' metrics and those of prometheus-nats-exporter.
OF_PROMETHEUS = {"up"}
NAME = re.compile(
    r"\b((?:groundling|messaging|gen_ai|hw|jetstream)[a-z0-9_]*|groundling:[a-z0-9_:]+|up)\b(?=[{\[ )\n]|$)"
)


def worker_metrics():
    """The names in a scrape of all instruments, from docs/metrics.md."""
    documentation = (ROOT / "docs/metrics.md").read_text()
    table = re.findall(r"^\| \[`[^`]+`\]\([^)]*\) \| `([a-z0-9_]+)` \| (\w+)", documentation, re.M)
    names = set()
    for name, kind in table:
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def without_labels(expression):
    """The expression without strings, label matchers and lists of labels, so that only names of metrics remain."""
    expression = re.sub(r'"[^"]*"', '""', expression)
    expression = re.sub(r"\{[^}]*\}", "{}", expression)
    return re.sub(r"\b(by|on|without|ignoring) \([^)]*\)", "", expression)


def metrics_of(expression):
    return set(NAME.findall(without_labels(expression)))


def panels_of(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def check_dashboard(dashboard, known):
    """One sentence for each problem."""
    problems, taken = [], {}
    ids = [panel["id"] for panel in dashboard["panels"]]
    titles = [panel["title"] for panel in dashboard["panels"]]
    if len(set(ids)) != len(ids):
        problems.append("dashboard: two panels have the same id")
    if len(set(titles)) != len(titles):
        problems.append("dashboard: two panels have the same title")
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            if taken.setdefault(cell, panel["title"]) != panel["title"]:
                problems.append(f"dashboard: {panel['title']!r} covers {taken[cell]!r}")
                break
        if at["x"] + at["w"] > 24:
            problems.append(f"dashboard: {panel['title']!r} is wider than the page")
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in panels_of(dashboard):
        title = panel["title"]
        if not panel["description"].endswith("."):
            problems.append(f"dashboard: {title!r} has no description in sentences")
        for target in panel["targets"]:
            if target["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
                problems.append(f"dashboard: {title!r} does not use the variable for its data source")
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            problems += [f"dashboard: {title!r} uses the unknown variable {name}" for name in used - variables]
            unknown = metrics_of(target["expr"]) - known
            problems += [f"dashboard: {title!r} uses the unknown metric {name}" for name in sorted(unknown)]
            if not metrics_of(target["expr"]) and "vector" not in target["expr"]:
                problems.append(f"dashboard: {title!r} uses no metric")
    return problems


def check_alerts(alerts, tests, runbook, known):
    """Each alert fires and does not fire in a test, has a section in the runbook, and uses known metrics."""
    problems = []
    names = set(re.findall(r"^ +- alert: (\w+)$", alerts, re.M))
    recorded = set(re.findall(r"^ +- record: (\S+)$", alerts, re.M))
    text = re.compile(r"\s*(#|summary|description|runbook|- record)")
    code = "\n".join(line for line in alerts.splitlines() if not text.match(line))
    for name in sorted(metrics_of(code) - known - recorded):
        problems.append(f"alerts.yaml uses the unknown metric {name}")
    fires = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", tests))
    rests = set(re.findall(r"alertname: (\w+)\n +exp_alerts: \[\]\n", tests))
    headings = set(re.findall(r"^## (Groundling\w+)$", runbook, re.M))
    for name in sorted(names):
        if name not in fires:
            problems.append(f"{name} fires in no test of alerts_test.yaml")
        if name not in rests:
            problems.append(f"no test of alerts_test.yaml shows that {name} does not fire")
        if name not in headings:
            problems.append(f"docs/runbook.md has no section {name}")
        if f"runbook_url: docs/runbook.md#{name.lower()}\n" not in alerts:
            problems.append(f"{name} has no link to its section of the runbook")
    problems += [f"docs/runbook.md has a section on {name}, which is no alert" for name in sorted(headings - names)]
    return problems
