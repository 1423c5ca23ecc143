//! The rates of a price as a request gives them and as an answer shows them.

use otari_filters::money::Rate;
use otari_filters::prices::{Prices, Tier};
use otari_filters::validate::{Bounds, Faults, Field, Fields, Kind, lax_float, lax_int};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

pub(super) const INPUT: &str = "input_price_per_million";
pub(super) const OUTPUT: &str = "output_price_per_million";
const CACHE_READ: &str = "cache_read_price_per_million";
const CACHE_WRITE: &str = "cache_write_price_per_million";
const CACHE_WRITE_1H: &str = "cache_write_1h_price_per_million";
const TIERS: &str = "pricing_tiers";
const THRESHOLD: &str = "min_input_tokens";

/// No model has a tenth as many; the list is read on every change of prices and written into every answer.
const MAX_TIERS: usize = 64;

const USD: Kind = Kind::Amount(Rate::MAX_USD);
const ABOVE_ZERO: Bounds<i64> = Bounds { at_least: None, above: Some(0), at_most: None };

/// The rates of a request, the two that every price has first; in USD per million tokens.
pub(super) const FIELDS: [Field; 5] = [
    Field::new(INPUT, USD, "USD per million input tokens"),
    Field::new(OUTPUT, USD, "USD per million output tokens"),
    Field::new(CACHE_READ, USD, "Input tokens read from a cache; absent keeps, null clears"),
    Field::new(CACHE_WRITE, USD, "Input tokens written to a cache; absent keeps, null clears"),
    Field::new(CACHE_WRITE_1H, USD, "Written for an hour; absent keeps, null clears"),
];

/// The tiers of a request.
pub(super) const TIERS_FIELD: Field = Field::new(
    TIERS,
    Kind::Objects(
        &[
            Field::new(THRESHOLD, Kind::Whole(ABOVE_ZERO), "The tier holds from this on")
                .required(),
            FIELDS[0],
            FIELDS[1],
            FIELDS[2],
            FIELDS[3],
            FIELDS[4],
        ],
        MAX_TIERS,
    ),
    "Rates of long inputs; absent keeps, null clears",
);

/// What a request says of the cache's rates and of the tiers: an outer `None` keeps what the model's newest price has.
pub(super) struct Further {
    cache_read: Option<Option<Rate>>,
    cache_write: Option<Option<Rate>>,
    cache_write_1h: Option<Option<Rate>>,
    tiers: Option<Vec<Tier>>,
}

impl Further {
    /// Reads the fields; null clears.
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        let mut rate = |name: &str| {
            let sent = fields.has(name);
            let rate = fields.get(name).and_then(|value| {
                let place = fields.loc(name);
                self::rate(&mut fields.faults, &place, value)
            });
            sent.then_some(rate)
        };
        Self {
            cache_read: rate(CACHE_READ),
            cache_write: rate(CACHE_WRITE),
            cache_write_1h: rate(CACHE_WRITE_1H),
            tiers: fields.has(TIERS).then(|| tiers(fields)),
        }
    }

    /// Whether anything is left to the newest price.
    pub(super) fn inherits(&self) -> bool {
        let rates = [self.cache_read, self.cache_write, self.cache_write_1h];
        rates.iter().any(Option::is_none) || self.tiers.is_none()
    }

    /// The whole price; `newest` is the model's newest so far.
    pub(super) fn complete(self, input: Rate, output: Rate, newest: Option<&Prices>) -> Prices {
        Prices::new(input, output)
            .with_cache(
                self.cache_read.unwrap_or_else(|| newest?.cache_read),
                self.cache_write.unwrap_or_else(|| newest?.cache_write),
                self.cache_write_1h.unwrap_or_else(|| newest?.cache_write_1h),
            )
            .with_tiers(self.tiers.unwrap_or_else(|| {
                newest.map(|newest| newest.tiers().to_vec()).unwrap_or_default()
            }))
    }
}

/// A rate that must be there.
pub(super) fn required(fields: &mut Fields<'_>, name: &str) -> Rate {
    match fields.get(name) {
        Some(value) => {
            let place = fields.loc(name);
            rate(&mut fields.faults, &place, value).unwrap_or_default()
        }
        // Missing or null: noted.
        None => Rate::from_f64(fields.required_amount(name)).unwrap_or_default(),
    }
}

/// A rate that is not below zero and that the databases hold.
fn rate(faults: &mut Faults, place: &[Value], value: &Value) -> Option<Rate> {
    let fault = match lax_float(value) {
        Ok(usd) if usd >= 0.0 => match Rate::from_f64(usd).filter(|_| usd <= Rate::MAX_USD) {
            Some(rate) => return Some(rate),
            None => {
                let message = format!("Input should be less than or equal to {:.0}", Rate::MAX_USD);
                ("less_than_equal", message, json!({"le": Rate::MAX_USD}))
            }
        },
        Ok(_) => {
            let message = "Input should be greater than or equal to 0".to_owned();
            ("greater_than_equal", message, json!({"ge": 0.0}))
        }
        Err((kind, message)) => (kind, message.to_owned(), Value::Null),
    };
    faults.add(fault.0, place, &fault.1, value.clone(), fault.2);
    None
}

/// The list of tiers; null is an empty one.
fn tiers(fields: &mut Fields<'_>) -> Vec<Tier> {
    let entries = match fields.get(TIERS) {
        None => return Vec::new(),
        Some(Value::Array(entries)) => entries,
        Some(_) => {
            fields.wrong(TIERS, "list_type", "Input should be a valid list", Value::Null);
            return Vec::new();
        }
    };
    if entries.len() > MAX_TIERS {
        let length = entries.len();
        let message =
            format!("List should have at most {MAX_TIERS} items after validation, not {length}");
        let context =
            json!({"field_type": "List", "max_length": MAX_TIERS, "actual_length": length});
        fields.wrong(TIERS, "too_long", &message, context);
        return Vec::new();
    }
    let [root, name] = fields.loc(TIERS);
    let mut tiers: Vec<Tier> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let place = [root.clone(), name.clone(), at.into()];
        let Some(tier) = tier(&mut fields.faults, &place, entry) else { continue };
        if tiers.iter().any(|other| other.min_input_tokens == tier.min_input_tokens) {
            let message = "Value error, another tier has this min_input_tokens already";
            let place = below(&place, THRESHOLD);
            let input = entry[THRESHOLD].clone();
            fields.faults.add("value_error", &place, message, input, json!({"error": {}}));
        }
        tiers.push(tier);
    }
    tiers
}

fn tier(faults: &mut Faults, place: &[Value], entry: &Value) -> Option<Tier> {
    let Value::Object(object) = entry else {
        let message = "Input should be a valid dictionary or object to extract fields from";
        faults.add("model_attributes_type", place, message, entry.clone(), Value::Null);
        return None;
    };
    let min_input_tokens = threshold(faults, place, object);
    let mut named = |name: &str| {
        let value = object.get(name).filter(|value| !value.is_null())?;
        rate(faults, &below(place, name), value)
    };
    let tier = Tier {
        min_input_tokens: 0,
        input: named(INPUT),
        output: named(OUTPUT),
        cache_read: named(CACHE_READ),
        cache_write: named(CACHE_WRITE),
        cache_write_1h: named(CACHE_WRITE_1H),
    };
    Some(Tier { min_input_tokens: min_input_tokens?, ..tier })
}

fn threshold(faults: &mut Faults, place: &[Value], tier: &Map<String, Value>) -> Option<u64> {
    let place = below(place, THRESHOLD);
    let Some(value) = tier.get(THRESHOLD) else {
        let input = Value::Object(tier.clone());
        faults.add("missing", &place, "Field required", input, Value::Null);
        return None;
    };
    let fault = match lax_int(value) {
        Ok(tokens) => match u64::try_from(tokens).ok().filter(|tokens| *tokens > 0) {
            Some(tokens) => return Some(tokens),
            None => ("greater_than", "Input should be greater than 0", json!({"gt": 0})),
        },
        Err((kind, message)) => (kind, message, Value::Null),
    };
    faults.add(fault.0, &place, fault.1, value.clone(), fault.2);
    None
}

/// The place of a field of what stands at `place`.
fn below(place: &[Value], name: &str) -> Vec<Value> {
    place.iter().cloned().chain([name.into()]).collect()
}

/// The rates in an answer, in USD per million.
#[derive(Serialize, JsonSchema)]
pub(super) struct Shown {
    input_price_per_million: f64,
    output_price_per_million: f64,
    cache_read_price_per_million: Option<f64>,
    cache_write_price_per_million: Option<f64>,
    cache_write_1h_price_per_million: Option<f64>,
    pricing_tiers: Vec<ShownTier>,
}

/// One tier; null: the model's own rate.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PricingTier")]
struct ShownTier {
    min_input_tokens: u64,
    input_price_per_million: Option<f64>,
    output_price_per_million: Option<f64>,
    cache_read_price_per_million: Option<f64>,
    cache_write_price_per_million: Option<f64>,
    cache_write_1h_price_per_million: Option<f64>,
}

impl From<&Prices> for Shown {
    fn from(prices: &Prices) -> Self {
        let usd = |rate: Option<Rate>| rate.map(Rate::to_f64);
        let tier = |tier: &Tier| ShownTier {
            min_input_tokens: tier.min_input_tokens,
            input_price_per_million: usd(tier.input),
            output_price_per_million: usd(tier.output),
            cache_read_price_per_million: usd(tier.cache_read),
            cache_write_price_per_million: usd(tier.cache_write),
            cache_write_1h_price_per_million: usd(tier.cache_write_1h),
        };
        Self {
            input_price_per_million: prices.input.to_f64(),
            output_price_per_million: prices.output.to_f64(),
            cache_read_price_per_million: usd(prices.cache_read),
            cache_write_price_per_million: usd(prices.cache_write),
            cache_write_1h_price_per_million: usd(prices.cache_write_1h),
            pricing_tiers: prices.tiers().iter().map(tier).collect(),
        }
    }
}
