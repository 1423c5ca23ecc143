//! Where the attachments of a request stand.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Block, Data, Kind, Source, Text};
use crate::protocol::Protocol;
use crate::protocol::json::{range_of, text};

/// The part of a body that holds conversations.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

/// A message, or an item of a responses request's input.
#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

/// A content block of any of the formats, or the object below one in which OpenAI's have their bytes. Null is as good as
/// absent.
#[derive(Default, Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    image_url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    file: Option<&'a RawValue>,
    #[serde(borrow, default)]
    file_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    file_data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    file_url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    filename: Option<&'a RawValue>,
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
    #[serde(borrow, default)]
    source: Option<&'a RawValue>,
    #[serde(borrow, default)]
    title: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cache_control: Option<&'a RawValue>,
}

/// Where Anthropic's blocks have their bytes.
#[derive(Deserialize)]
struct Origin<'a> {
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    media_type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    file_id: Option<&'a RawValue>,
}

/// The attachments of a request, in the order in which they stand: those at the top level of each message, not those
/// within the results of tools. What cannot be read is none.
pub fn find(protocol: Protocol, body: &[u8]) -> Vec<Block> {
    let mut found = Vec::new();
    let whole = std::str::from_utf8(body).ok();
    let Some(top) = whole.and_then(object::<Body<'_>>) else { return found };
    let items = match protocol {
        Protocol::Chat | Protocol::Messages => top.messages,
        Protocol::Responses => top.input,
    };
    for item in list(items) {
        let Some(item) = object::<Item<'_>>(item.get()) else { continue };
        for part in list(item.content) {
            let block = match protocol {
                Protocol::Chat | Protocol::Responses => openai(body, part),
                Protocol::Messages => anthropic(body, part),
            };
            found.extend(block);
        }
    }
    found
}

/// An object's fields. Of a list serde would take the values in their order.
fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    json.trim_start().strip_prefix('{')?;
    serde_json::from_str(json).ok()
}

/// The values of a list; none of anything else.
fn list(raw: Option<&RawValue>) -> Vec<&RawValue> {
    let raw = raw.map(RawValue::get).filter(|raw| raw.starts_with('['));
    raw.and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default()
}

/// The text of a string that is not empty.
fn word(raw: Option<&RawValue>) -> Option<Box<str>> {
    raw.and_then(text).filter(|text| !text.is_empty()).map(Into::into)
}

fn openai(body: &[u8], raw: &RawValue) -> Option<Block> {
    let part: Part<'_> = object(raw.get())?;
    let kind = match &*word(part.r#type)? {
        "image_url" | "input_image" => Kind::Image,
        "file" | "input_file" => Kind::Document,
        _ => return None,
    };
    let nested = if kind == Kind::Image { part.image_url } else { part.file };
    let below: Part<'_> = match nested {
        Some(nested) if nested.get().starts_with('{') => object(nested.get())?,
        // An image's address may stand there by itself.
        Some(address) => Part { url: Some(address), ..Part::default() },
        None => Part::default(),
    };
    let source = place(body, &below).or_else(|| place(body, &part))?;
    Some(Block {
        range: range_of(body, raw),
        kind,
        source,
        filename: word(below.filename).or_else(|| word(part.filename)),
        detail: at(body, below.detail.or(part.detail)),
        cache_control: at(body, part.cache_control),
        source_at: None,
    })
}

fn at(body: &[u8], raw: Option<&RawValue>) -> Option<Range<usize>> {
    raw.map(|raw| range_of(body, raw))
}

/// Where an object of OpenAI's says its bytes are.
fn place(body: &[u8], place: &Part<'_>) -> Option<Source> {
    if let Some(data) = place.file_data {
        // Some clients leave the head of the data URL out.
        return data_url(body, data).or_else(|| plain(body, data, None)).map(Source::Data);
    }
    if let Some(id) = word(place.file_id) {
        return Some(Source::File(id));
    }
    let address = place.url.or(place.file_url)?;
    // An address is a text; of anything else the provider may make what it likes.
    address.get().strip_prefix('"')?;
    Some(data_url(body, address).map_or(Source::Remote, Source::Data))
}

fn anthropic(body: &[u8], raw: &RawValue) -> Option<Block> {
    let part: Part<'_> = object(raw.get())?;
    let kind = match &*word(part.r#type)? {
        "image" => Kind::Image,
        "document" => Kind::Document,
        _ => return None,
    };
    let origin = part.source?;
    let read: Origin<'_> = object(origin.get())?;
    let source = match (&*word(read.r#type)?, kind) {
        ("base64", _) => {
            let mime = word(read.media_type).map(|mime| essence(&mime));
            Source::Data(plain(body, read.data?, mime)?)
        }
        ("text", Kind::Document) => {
            let data = read.data.filter(|data| data.get().starts_with('"'))?;
            Source::Text(Text { string: range_of(body, data) })
        }
        ("file", _) => Source::File(word(read.file_id)?),
        ("url", _) => Source::Remote,
        _ => return None,
    };
    Some(Block {
        range: range_of(body, raw),
        kind,
        source,
        filename: word(part.title),
        detail: None,
        cache_control: at(body, part.cache_control),
        source_at: Some(range_of(body, origin)),
    })
}

/// A string that is base64 and nothing else.
fn plain(body: &[u8], raw: &RawValue, mime: Option<Box<str>>) -> Option<Data> {
    raw.get().strip_prefix('"')?;
    Some(Data { mime, is_base64: true, string: range_of(body, raw), skip: 0 })
}

/// Longest head of a data URL that is looked at: media types are short.
const LONGEST_HEAD: usize = 512;

fn data_url(body: &[u8], raw: &RawValue) -> Option<Data> {
    let range = range_of(body, raw);
    let quoted = raw.get().as_bytes();
    quoted.get(1..6).filter(|scheme| scheme.eq_ignore_ascii_case(b"data:"))?;
    // The head is short; the payload may be long, and is not read here. Escapes in the head, as `\/`, are.
    let comma = memchr::memchr(b',', &quoted[..quoted.len().min(LONGEST_HEAD)])?;
    let head: String = serde_json::from_str(&format!("{}\"", raw.get().get(..comma)?)).ok()?;
    let mut words = head.get(5..)?.split(';');
    let mime = words.next().map(essence).filter(|mime| !mime.is_empty());
    let is_base64 = words.any(|word| word.trim().eq_ignore_ascii_case("base64"));
    Some(Data { mime, is_base64, string: range, skip: head.len() + 1 })
}

/// A media type without its parameters.
fn essence(mime: &str) -> Box<str> {
    mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().into()
}
