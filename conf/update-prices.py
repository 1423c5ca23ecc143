#!/usr/bin/env python3
"""Writes conf/prices.json, the public list prices that `default_pricing` falls back to.

    python3 -m venv /tmp/prices && /tmp/prices/bin/pip install genai-prices
    /tmp/prices/bin/python conf/update-prices.py            # or --date 2026-11-22

The data set is genai-prices (MIT, Pydantic Services Inc.); its licence is repeated in conf/prices.LICENSE.
What is kept of it: providers that the gateway's table knows, and of each model how its name is recognised, the five
token rates (USD per million) and their context tiers. What is left out: audio, image, search and per-request fees.
A price that begins later than the date is not taken; of prices by the time of day the dearest is.
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib
import re
from decimal import ROUND_HALF_UP, Decimal

from genai_prices import types
from genai_prices.data import providers

# The gateway's provider (filters/src/providers.rs), and where its models are looked up, in this order.
KINDS = {
    "anthropic": ["anthropic"],
    "azure": ["azure", "openai", "deepseek", "x-ai"],
    "azureanthropic": ["anthropic"],
    "azureopenai": ["azure", "openai"],
    "bedrock": ["aws"],
    "cerebras": ["cerebras"],
    "cohere": ["cohere"],
    "databricks": ["databricks"],
    "deepseek": ["deepseek"],
    "fireworks": ["fireworks"],
    "gemini": ["google"],
    "groq": ["groq"],
    "meta": ["meta"],
    "minimax": ["minimax"],
    "mistral": ["mistral"],
    "moonshot": ["moonshotai"],
    "openai": ["openai"],
    "openrouter": ["openrouter"],
    "ovhcloud": ["ovhcloud"],
    "perplexity": ["perplexity"],
    "together": ["together"],
    "vertexai": ["google"],
    "vertexaianthropic": ["google", "anthropic"],
    "voyage": ["voyageai"],
    "xai": ["x-ai"],
    "zai": ["zai"],
}

# In the order in which a model's rates are written.
METERS = ["input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok"]
PLACES = Decimal("0.00000001")


# A name followed by a date needs no clause: the gateway looks it up without the date as well.
DATED = re.compile(r"^\^.*[-@\]](\\d\{8\}|\\d\{4\}-\\d\{2\}-\\d\{2\})\$$")
NO_SPEECH = r"^(?!.*-[tT][tT][sS](?:$|-))"


def alternatives(clause):
    """The clause as a list of alternatives, each a list of conditions that must all hold; None for a regex."""
    match clause:
        case types.ClauseRegex() if clause.regex == NO_SPEECH:
            return [["!-tts"]]
        case types.ClauseRegex() if not DATED.match(clause.regex):
            print(f"left out: {clause.regex}")
        case types.ClauseEquals():
            return [["=" + clause.equals.lower()]]
        case types.ClauseStartsWith():
            return [["^" + clause.starts_with.lower()]]
        case types.ClauseEndsWith():
            return [["$" + clause.ends_with.lower()]]
        case types.ClauseContains():
            return [["*" + clause.contains.lower()]]
        case types.ClauseOr():
            each = [alternatives(one) for one in clause.or_]
            return [one for found in each for one in found or []]
        case types.ClauseAnd():
            joined = [[]]
            for one in clause.and_:
                found = alternatives(one)
                if found is None:
                    return None
                joined = [left + right for left in joined for right in found]
            return joined
    return None


def number(value):
    value = value.quantize(PLACES, ROUND_HALF_UP).normalize()
    return int(value) if value == value.to_integral() else float(value)


def at(price, tokens):
    """The rate for a prompt of so many tokens: beyond a tier's start, the whole prompt is at that tier's rate."""
    if not isinstance(price, types.TieredPrices):
        return price
    return ([price.base] + [tier.price for tier in price.tiers if tokens > tier.start])[-1]


def row(model, date):
    found = alternatives(model.match)
    prices = standing(model.prices, date)
    if not found or prices is None:
        return None
    fields = [getattr(prices, meter, None) for meter in METERS]
    if fields[0] is None:
        return None
    starts = {t.start for f in fields if isinstance(f, types.TieredPrices) for t in f.tiers}
    rates = lambda tokens: [None if f is None else number(at(f, tokens)) for f in fields]
    base = rates(0)
    base[1] = base[1] or 0
    tiers = []
    for start in sorted(starts):
        # A tier names what differs from the base; the gateway's thresholds are inclusive.
        named = [now if now != then else None for now, then in zip(rates(start + 1), base)]
        tiers.append([start + 1, *trimmed(named)])
    names = [one[0] if len(one) == 1 else one for one in found]
    return [names, trimmed(base), *([tiers] if tiers else [])]


def trimmed(rates):
    while rates and rates[-1] is None:
        rates = rates[:-1]
    return rates


def standing(prices, date):
    """The price on that day: the last that has begun, or the dearest by the time of day."""
    if isinstance(prices, types.ModelPrice):
        return prices
    begun, by_time = prices[0].prices, []
    for one in prices:
        if isinstance(one.constraint, types.TimeOfDateConstraint):
            by_time.append(one.prices)
        elif one.constraint is None or one.constraint.start_date <= date:
            begun = one.prices
    return max([begun, *by_time], key=lambda p: at(getattr(p, "input_mtok", None) or Decimal(0), 0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--date", type=datetime.date.fromisoformat, default=datetime.date.today())
    date = parser.parse_args().date
    wanted = {section for sections in KINDS.values() for section in sections}
    sections, left_out = {}, 0
    for provider in providers:
        if provider.id in wanted:
            rows = [row(model, date) for model in provider.models]
            left_out += rows.count(None)
            sections[provider.id] = [one for one in rows if one]
    missing = wanted - sections.keys()
    assert not missing, f"the data set has no {missing}"
    version = importlib.metadata.version("genai-prices")
    write = lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    lines = [
        "{",
        f'"source":{write("genai-prices " + version)},',
        f'"licence":{write("MIT, (c) Pydantic Services Inc.; see prices.LICENSE")},',
        f'"date":{write(date.isoformat())},',
        f'"kinds":{write(KINDS)},',
        '"sections":{',
        ",\n".join(
            f"{write(name)}:[\n" + ",\n".join(map(write, rows)) + "\n]" for name, rows in sections.items()
        ),
        "}",
        "}",
        "",
    ]
    target = pathlib.Path(__file__).with_name("prices.json")
    target.write_text("\n".join(lines), encoding="utf-8")
    print(f"{target}: {sum(map(len, sections.values()))} models, {left_out} without a token price left out")


if __name__ == "__main__":
    main()
