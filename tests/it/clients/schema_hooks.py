"""What schemathesis is told beyond the document: who calls, what exists, and what it must not take away from itself.

OTARI_FUZZ is JSON: `key`, `master`; `own`: ids that nothing may happen to; `known`: ids for the variable parts of paths.
"""

import json
import os
import zlib
from urllib.parse import unquote

import schemathesis

SET = json.loads(os.environ["OTARI_FUZZ"])
OWN = set(SET["own"])
TURN = [{"role": "user", "content": "hi"}]
MODELS = ["p:m", "a:m", "o:m", "g:m"]
# Calls that are good, so that not every one ends at its first wrong field. `MODELS` stands for one of them.
GOOD = {
    "create_chat_completion": {"model": MODELS, "messages": TURN},
    "create_message": {"model": MODELS, "messages": TURN, "max_tokens": 9},
    "count_message_tokens": {"model": MODELS, "messages": TURN},
    "create_response": {"model": MODELS, "input": "hi"},
    "create_embeddings": {"model": "p:m", "input": ["one", "two"]},
    "create_moderation": {"model": "p:m", "input": "harmless"},
    "create_rerank": {"model": "c:m", "query": "q", "documents": ["a", "b"]},
    "create_image": {"model": "p:m", "prompt": "a cat"},
    "create_speech": {"model": "p:m", "input": "hello", "voice": "alloy"},
    "create_transcription": {"model": "p:m"},
    "search": {"query": "q"},
    "search_with_tool": {"query": "q"},
    "create_batch": {"model": "g:m", "requests": [{"custom_id": "a", "body": {"messages": TURN}}]},
    "create_scoped_budget": {"scope_type": "api_token", "scope_id": SET["known"]["key_id"], "budget_id": SET["known"]["budget_id"]},
    "set_alias": {"name": "fast", "target": "p:m"},
    "set_price": {"model_key": "p:x", "input_price_per_million": 1, "output_price_per_million": 2},
}


@schemathesis.hook
def before_load_schema(ctx, raw_schema):
    # A stream of events is a text as a whole; it would be held against every event by itself.
    for path in raw_schema["paths"].values():
        for operation in path.values():
            success = operation["responses"].get("200", {})
            success.get("content", {}).get("text/event-stream", {}).pop("schema", None)
    missing = GOOD.keys() - {operation["operationId"] for path in raw_schema["paths"].values() for operation in path.values()}
    assert not missing, f"no such operations: {missing}"


@schemathesis.auth(refresh_interval=None)
class Auth:
    def get(self, case, ctx):
        shown = case.operation.definition.raw
        if not shown.get("security"):
            return None
        return SET["master"] if shown["description"] == "The master key." else SET["key"]

    def set(self, case, data, ctx):
        if data:
            case.headers = case.headers or {}
            case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.check
def no_fault_of_the_gateway(ctx, response, case):
    if response.status_code >= 500:
        # Whom the caller names in the call, nobody has to find. Anthropic's errors have no code.
        body = case.body if isinstance(case.body, dict) else {}
        names_server = body.get("guardrails") or body.get("mcp_servers")
        code = response.json()["error"].get("code", "guardrail_unavailable")
        is_unknown = names_server and code in ("guardrail_unavailable", "tool_unavailable")
        assert is_unknown and response.status_code == 502, f"{response.status_code}: {response.text[:2000]}"


def is_priced(model):
    """Whether it is one of the models that are called here: without its price, or at another, nobody could call it."""
    # Parts of paths come as they go over the wire.
    return isinstance(model, str) and unquote(model).replace("/", ":", 1) in {*MODELS, "c:m", "exa:exa"}


@schemathesis.hook
def before_call(ctx, case, kwargs):
    # The same case is changed in the same way when it is tried again.
    text = repr((case.operation.label, case.path_parameters, case.query, case.body))
    dice = zlib.crc32(text.encode("utf-8", "replace"))
    # What follows another call is about what that call has made.
    is_first = case.meta is None or case.meta.phase.name != "stateful"
    for name in case.path_parameters or {}:
        known = SET["known"].get(name)
        if known and is_first and dice % 2:
            case.path_parameters[name] = known
        # Without a name it is another path: that of the list.
        if unquote(str(case.path_parameters[name])) in {"", *OWN}:
            case.path_parameters[name] = "somebody-else"
        elif name == "model_key" and is_priced(case.path_parameters[name]):
            case.path_parameters[name] = "p:x"
    if isinstance(case.body, dict) and is_priced(case.body.get("model_key")):
        case.body["model_key"] = "p:x"
    operation = case.operation.definition.raw["operationId"]
    if "batch" in operation and case.query is not None and dice % 2:
        case.query["provider"] = "p"
    good = GOOD.get(operation)
    if good and isinstance(case.body, dict) and dice % 3:
        good = {name: value[dice % len(value)] if value is MODELS else value for name, value in good.items()}
        names = sorted(case.body, key=str)
        if dice % 3 == 1 and names:
            one = names[dice // 3 % len(names)]
            case.body = {**good, one: case.body[one]}
        else:
            case.body = {**case.body, **good}
