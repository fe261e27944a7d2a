"""User projections' JavaScript, run by QuickJS behind the functions that a projection's query
calls.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import quickjs

from tests.eventstoredb_server.storage import Record

_PRELUDE = """
var __source = {}, __handlers = {}, __partition = null, __output = false, __transforms = [], __emitted = [];
function __chain() {
  return {
    when: function (handlers) { __handlers = handlers; return __chain(); },
    foreachStream: function () { __partition = function (e) { return e.streamId; }; return __chain(); },
    partitionBy: function (by) { __partition = by; return __chain(); },
    outputState: function () { __output = true; return __chain(); },
    outputTo: function () { __output = true; return __chain(); },
    transformBy: function (by) { __transforms.push(by); return __chain(); },
    filterBy: function (by) { __transforms.push(function (s) { return by(s) ? s : null; }); return __chain(); },
    $defines_state_transform: function () { return __chain(); }
  };
}
function fromAll() { __source = {all: true}; return __chain(); }
function fromStream(name) { __source = {streams: [name]}; return __chain(); }
function fromStreams() {
  __source = {streams: Array.isArray(arguments[0]) ? arguments[0] : Array.prototype.slice.call(arguments)};
  return __chain();
}
function fromCategory(name) { __source = {categories: [name]}; return __chain(); }
function fromCategories() {
  __source = {categories: Array.isArray(arguments[0]) ? arguments[0] : Array.prototype.slice.call(arguments)};
  return __chain();
}
function options() {}
function log() {}
function emit(stream, type, data, metadata) {
  __emitted.push({stream: stream, type: type, data: JSON.stringify(data || {}), metadata: metadata || {}});
}
function linkTo(stream, event, metadata) {
  __emitted.push({stream: stream, type: "$>", data: event.sequenceNumber + "@" + event.streamId, metadata: metadata || {}});
}
function __parse(text) { try { return JSON.parse(text); } catch (error) { return undefined; } }
function __event(e) {
  e.body = __parse(e.bodyRaw); e.data = e.body; e.metadata = __parse(e.metadataRaw); return e;
}
function __partitionOf(text) {
  var partition = __partition ? __partition(__event(JSON.parse(text))) : "";
  return partition === undefined || partition === null ? null : String(partition);
}
function __handles(type) { return Object.prototype.hasOwnProperty.call(__handlers, type) || "$any" in __handlers; }
function __initial() { return JSON.stringify(__handlers.$init ? __handlers.$init() : {}); }
function __process(text, state) {
  __emitted = [];
  var event = __event(JSON.parse(text));
  var handler = Object.prototype.hasOwnProperty.call(__handlers, event.eventType) ? __handlers[event.eventType] : __handlers.$any;
  var before = JSON.parse(state), after = handler(before, event);
  if (after === undefined) after = before;
  var result = after;
  __transforms.forEach(function (by) { if (result !== null && result !== undefined) result = by(result); });
  return JSON.stringify({state: after, result: result === undefined ? null : result, emitted: __emitted});
}
function __definition() { return JSON.stringify({source: __source, output: __output || __transforms.length > 0, partitioned: !!__partition, handled: Object.keys(__handlers)}); }
"""


class QueryError(Exception):
    pass


@dataclass(frozen=True)
class Outcome:
    state: object
    result: object
    emitted: list[dict]


class Query:
    """A compiled query.

    Raises QueryError where the JavaScript does not compile or names no source.
    """

    def __init__(self, text: str) -> None:
        self._context = quickjs.Context()
        self._context.eval(_PRELUDE)
        try:
            self._context.eval(text)
            definition = json.loads(self._call("__definition"))
        except quickjs.JSException as error:
            raise QueryError(str(error)) from None
        self.source: dict[str, object] = definition["source"]
        self.output: bool = definition["output"]
        self.partitioned: bool = definition["partitioned"]
        self.handled: list[str] = definition["handled"]
        if not self.source:
            raise QueryError("the query has no source")

    def _call(self, name: str, *arguments: object) -> str:
        return self._context.get(name)(*arguments)

    def handles(self, record: Record) -> bool:
        return bool(self._call("__handles", record.type))

    def initial(self) -> object:
        return json.loads(self._call("__initial"))

    def partition(self, record: Record) -> str | None:
        try:
            return self._call("__partitionOf", _event(record))
        except quickjs.JSException as error:
            raise QueryError(str(error)) from None

    def process(self, record: Record, state: object) -> Outcome:
        try:
            return Outcome(**json.loads(self._call("__process", _event(record), json.dumps(state))))
        except quickjs.JSException as error:
            raise QueryError(str(error)) from None


def _event(record: Record) -> str:
    return json.dumps(
        {
            "isJson": record.is_json,
            "bodyRaw": record.data.decode("utf-8", "replace"),
            "metadataRaw": record.metadata.decode("utf-8", "replace"),
            "sequenceNumber": record.revision,
            "streamId": record.stream,
            "eventType": record.type,
            "eventId": str(record.id),
        }
    )
