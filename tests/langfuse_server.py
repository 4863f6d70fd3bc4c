"""A Langfuse server on loopback, as strict as a real one: a row's key is project, id and start."""

import json

from servers import as_json

from swaplib.tracing import langfuse_api, outbox, posting


def spans_in(lines) -> dict[str, dict]:
    return {span["spanId"]: span for line in lines for span in outbox.list_spans(line)}


def attributes(span) -> dict[str, str]:
    return {a["key"]: next(iter(a["value"].values())) for a in span["attributes"]}


class LangfuseServer:
    """Keeps what arrives as rows; those of one project, id and start become one by `merge` only.

    A merged row has what the later one says, and what only the earlier one said. A version older
    than 4.59 refuses arrays of scores. `failing` is a status to answer everything with.
    """

    def __init__(self, version: str = "4.70.1"):
        self.version, self.failing, self.auth = version, 0, set()
        self.rows, self.score_rows, self.headers = [], [], []

    def __call__(self, exchange):
        if self.failing:
            return as_json({}, self.failing)
        if exchange.path == langfuse_api.HEALTH_PATH:
            return as_json({"status": "OK", "version": self.version})
        project = exchange.headers["authorization"]
        self.auth.add(project)
        self.headers.append(dict(exchange.headers))
        if exchange.path == posting.SPANS_PATH:
            for span in spans_in_order(exchange.json()):
                key = (project, span["spanId"], span["startTimeUnixNano"])
                self.rows.append((key, span | {"attributes": attributes(span)}))
            return as_json({})
        assert exchange.path == posting.SCORES_PATH
        if tuple(map(int, self.version.split(".")[:2])) < (4, 59) and isinstance(
            exchange.json(), list
        ):
            return as_json({"message": "Invalid request data"}, 400)
        for score in exchange.json():
            self.score_rows.append(((project, score["id"], score["timestamp"]), score))
        return as_json(
            {"successes": [{"id": s["id"], "status": 201} for s in exchange.json()], "errors": []},
            207,
        )

    def merge(self) -> None:
        merged = {}
        for key, row in self.rows:
            earlier = merged.get(key, {"attributes": {}})
            merged[key] = row | {"attributes": earlier["attributes"] | row["attributes"]}
        self.rows, self.score_rows = list(merged.items()), list(dict(self.score_rows).items())

    @property
    def spans(self) -> dict[str, dict]:
        return {key[1]: row for key, row in self.rows}

    @property
    def scores(self) -> dict[str, dict]:
        return {key[1]: row for key, row in self.score_rows}

    def named(self, name: str) -> list[dict]:
        return [row for _, row in self.rows if row["name"] == name]


def spans_in_order(body) -> list[dict]:
    return [json.loads(json.dumps(span)) for span in outbox.list_spans(body)]
