//! What a request says, apart from how its format says it: read off the neutral form, and off the formats that only
//! providers have. And what each format loses of it.

use otari_filters::translate::Wire;
use otari_filters::translate::neutral::{Conversation, Kind, Origin, Part, Role, Source};
use serde_json::Value;

/// One thing that is said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Instruction(String),
    User(String),
    Assistant(String),
    /// Data, or an address.
    Picture(String),
    Document(String),
    /// A tool, what it is called with, and Google's seal.
    Call(String, Value, Option<String>),
    /// A text; where it is a JSON object, in one spelling.
    Result(String),
    /// A thought and its seal; of one that cannot be read only the seal.
    Thought(String, Option<(Origin, String)>),
}

/// JSON objects in one spelling; other texts as they are.
fn spelled(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(value @ Value::Object(_)) => value.to_string(),
        _ => text.to_owned(),
    }
}

/// Empty texts are nothing, and texts of one side that follow one another are one.
pub(crate) fn tidy(items: Vec<Item>) -> Vec<Item> {
    let mut tidied: Vec<Item> = Vec::new();
    for item in items {
        match (tidied.last_mut(), item) {
            (_, Item::Instruction(text) | Item::User(text) | Item::Assistant(text))
                if text.is_empty() => {}
            (Some(Item::Instruction(last)), Item::Instruction(more)) => last.push_str(&more),
            (Some(Item::User(last)), Item::User(more)) => last.push_str(&more),
            (Some(Item::Assistant(last)), Item::Assistant(more)) => last.push_str(&more),
            (_, item) => tidied.push(item),
        }
    }
    tidied
}

/// What a conversation in its neutral form says.
pub(crate) fn of(conversation: &Conversation<'_>) -> Vec<Item> {
    let turns = conversation.turns.iter();
    let parts = turns.flat_map(|turn| turn.parts.iter().map(move |part| of_part(turn.role, part)));
    tidy(parts.collect())
}

fn of_part(role: Role, part: &Part<'_>) -> Item {
    let place = |source: &Source<'_>| match source {
        Source::Base64(_, data) => data.plain().into_owned(),
        Source::Url(text) | Source::Upload(text) | Source::Plain(text) => text.plain().into_owned(),
    };
    match &part.kind {
        Kind::Text(text) | Kind::Refusal(text) => {
            let text = text.plain().into_owned();
            match role {
                Role::System | Role::Developer => Item::Instruction(text),
                Role::User => Item::User(text),
                Role::Assistant => Item::Assistant(text),
            }
        }
        Kind::Image(source, _) => Item::Picture(place(source)),
        Kind::File(source, _) => Item::Document(place(source)),
        Kind::ToolCall(call) => Item::Call(
            call.name.plain().into_owned(),
            serde_json::from_str(&call.arguments.object().unwrap()).unwrap(),
            call.seal.as_ref().map(|seal| seal.value.plain().into_owned()),
        ),
        Kind::ToolResult(result) => {
            let texts = result.parts.iter().map(|part| match &part.kind {
                Kind::Text(text) => text.plain().into_owned(),
                other => panic!("{other:?} in a result"),
            });
            Item::Result(spelled(&texts.collect::<String>()))
        }
        Kind::Thinking(text, seal) => {
            let seal = seal.as_ref().map(|seal| (seal.origin, seal.value.plain().into_owned()));
            Item::Thought(text.plain().into_owned(), seal)
        }
        Kind::Redacted(seal) => {
            Item::Thought(String::new(), Some((seal.origin, seal.value.plain().into_owned())))
        }
        Kind::Opaque(_) => panic!("a part that only its own format knows"),
    }
}

/// What is left of it in the format `to`: the losses that are meant. `None`: it is refused.
pub(crate) fn left(to: Wire, items: &[Item]) -> Option<Vec<Item>> {
    let has_document = items.iter().any(|item| matches!(item, Item::Document(_)));
    let is_far = |item: &Item| matches!(item, Item::Picture(place) if place.starts_with("https:"));
    if has_document && matches!(to, Wire::Cohere | Wire::Ollama)
        || to == Wire::Converse && items.iter().any(is_far)
    {
        return None;
    }
    let kept = items.iter().filter_map(|item| match item {
        // Who made a seal gets it back, nobody else, and thoughts without one are nobody's.
        Item::Thought(_, seal) => {
            let home = match to {
                Wire::Messages | Wire::Converse => Origin::Anthropic,
                Wire::Responses => Origin::OpenAi,
                _ => return None,
            };
            seal.as_ref().is_some_and(|(origin, _)| *origin == home).then(|| item.clone())
        }
        Item::Call(name, arguments, seal) => {
            let seal = seal.clone().filter(|_| to == Wire::Gemini);
            Some(Item::Call(name.clone(), arguments.clone(), seal))
        }
        // Only the picture itself can be sent there.
        Item::Picture(place) if to == Wire::Ollama && place.starts_with("https:") => None,
        item => Some(item.clone()),
    });
    Some(tidy(kept.collect()))
}

/// Comparable where a format says something in another place: instructions before all else, each on a line; pictures of
/// a message beside its texts, which are joined by spaces.
pub(crate) fn comparable(to: Wire, items: Vec<Item>) -> Vec<Item> {
    let gathers = matches!(to, Wire::Messages | Wire::Gemini | Wire::Converse | Wire::SageMaker);
    let mut instructions = String::new();
    let (mut others, mut pictures) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Instruction(text) if gathers => instructions += &text.replace('\n', ""),
            Item::Picture(_) if to == Wire::Ollama => pictures.push(item),
            Item::User(text) if to == Wire::Ollama => {
                others.push(Item::User(text.replace(' ', "")));
            }
            item => others.push(item),
        }
    }
    let mut all = vec![Item::Instruction(instructions)];
    all.extend(others);
    let mut all = tidy(all);
    all.extend(pictures);
    all
}

/// What a request in a format says that only providers have.
pub(crate) fn of_provider(format: Wire, body: &Value) -> Vec<Item> {
    tidy(match format {
        Wire::Gemini => of_gemini(body),
        Wire::Cohere | Wire::Ollama | Wire::SageMaker => of_messages(body),
        Wire::Converse => of_converse(body),
        other => panic!("{other:?}: callers have it too"),
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn of_gemini(body: &Value) -> Vec<Item> {
    let instructions = list(&body["systemInstruction"]["parts"]);
    let mut items: Vec<_> =
        instructions.map(|part| Item::Instruction(text(&part["text"]))).collect();
    for content in list(&body["contents"]) {
        let is_model = content["role"] == "model";
        for part in list(&content["parts"]) {
            let known = ["text", "inlineData", "fileData", "functionCall", "functionResponse"];
            let kind = known.into_iter().find(|kind| part.get(kind).is_some()).unwrap();
            let value = &part[kind];
            items.push(match kind {
                "text" if is_model => Item::Assistant(text(value)),
                "text" => Item::User(text(value)),
                "inlineData" | "fileData" => {
                    let place = value.get("data").unwrap_or(&value["fileUri"]);
                    match value["mimeType"].as_str().unwrap().starts_with("image/") {
                        true => Item::Picture(text(place)),
                        false => Item::Document(text(place)),
                    }
                }
                "functionCall" => {
                    let seal = part.get("thoughtSignature").map(text);
                    let seal = seal.filter(|seal| seal != "skip_thought_signature_validator");
                    Item::Call(text(&value["name"]), value["args"].clone(), seal)
                }
                _ => {
                    let said = &value["response"];
                    Item::Result(match said.as_object().unwrap().len() {
                        1 if said["result"].is_string() => text(&said["result"]),
                        _ => said.to_string(),
                    })
                }
            });
        }
    }
    items
}

fn of_converse(body: &Value) -> Vec<Item> {
    let said = list(&body["system"]).filter_map(|block| block["text"].as_str());
    let mut items: Vec<_> = said.map(|text| Item::Instruction(text.to_owned())).collect();
    for message in list(&body["messages"]) {
        let is_assistant = message["role"] == "assistant";
        for block in list(&message["content"]) {
            let (kind, value) = block.as_object().unwrap().iter().next().unwrap();
            items.push(match kind.as_str() {
                "text" if is_assistant => Item::Assistant(text(value)),
                "text" => Item::User(text(value)),
                "image" => Item::Picture(text(&value["source"]["bytes"])),
                "document" => Item::Document(text(&value["source"]["bytes"])),
                "toolUse" => Item::Call(text(&value["name"]), value["input"].clone(), None),
                "toolResult" => {
                    let parts = list(&value["content"]).map(|part| match part.get("json") {
                        Some(json) => json.to_string(),
                        None => text(&part["text"]),
                    });
                    Item::Result(spelled(&parts.collect::<String>()))
                }
                "reasoningContent" => {
                    let told = &value["reasoningText"];
                    let seal = value.get("redactedContent").unwrap_or(&told["signature"]);
                    let thought = told["text"].as_str().unwrap_or_default();
                    Item::Thought(thought.to_owned(), Some((Origin::Anthropic, text(seal))))
                }
                "cachePoint" => continue,
                other => panic!("{other}: no such block"),
            });
        }
    }
    items
}

/// Cohere's, Ollama's and SageMaker's messages, which are nearly OpenAI's.
fn of_messages(body: &Value) -> Vec<Item> {
    let mut items: Vec<_> =
        body["system"].as_str().map(|text| Item::Instruction(text.into())).into_iter().collect();
    for message in list(&body["messages"]) {
        let texts = |message: &Value| match &message["content"] {
            Value::String(text) => text.clone(),
            Value::Null => message["tool_plan"].as_str().unwrap_or_default().to_owned(),
            parts => list(parts).map(|part| part["text"].as_str().unwrap_or_default()).collect(),
        };
        match message["role"].as_str().unwrap() {
            "system" => items.push(Item::Instruction(texts(message))),
            "tool" => items.push(Item::Result(spelled(&texts(message)))),
            "assistant" => items.push(Item::Assistant(texts(message))),
            _ => of_user(message, &mut items),
        }
        for call in list(&message["tool_calls"]) {
            let function = &call["function"];
            let arguments = match &function["arguments"] {
                Value::String(json) => serde_json::from_str(json).unwrap(),
                object => object.clone(),
            };
            items.push(Item::Call(text(&function["name"]), arguments, None));
        }
    }
    items
}

fn of_user(message: &Value, items: &mut Vec<Item>) {
    if let Value::String(text) = &message["content"] {
        items.push(Item::User(text.clone()));
    }
    for part in list(&message["content"]) {
        items.push(match part["type"].as_str().unwrap() {
            "text" => Item::User(text(&part["text"])),
            "image_url" => {
                let url = text(&part["image_url"]["url"]);
                Item::Picture(
                    url.split_once(";base64,").map_or(url.clone(), |(_, data)| data.to_owned()),
                )
            }
            "file" => {
                let data = text(&part["file"]["file_data"]);
                Item::Document(data.split_once(";base64,").unwrap().1.to_owned())
            }
            other => panic!("{other}: no such part"),
        });
    }
    items.extend(list(&message["images"]).map(|data| Item::Picture(text(data))));
}
