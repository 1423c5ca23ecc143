//! Reads calls of `generateContent`, field by field.

use serde_json::Value;

use super::super::Wants;
use super::super::shape::{At, Object, Read, chars, is_name};
use crate::mock::call::Speaker;
use crate::mock::tools::{Forced, Tool};

/// Who is spoken to: Vertex AI knows a few fields more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Host {
    Gemini,
    Vertex,
}

const BODY: [&str; 8] = [
    "contents",
    "systemInstruction",
    "tools",
    "toolConfig",
    "generationConfig",
    "safetySettings",
    "cachedContent",
    "serviceTier",
];

const GENERATION: [&str; 21] = [
    "stopSequences",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "responseModalities",
    "candidateCount",
    "maxOutputTokens",
    "temperature",
    "topP",
    "topK",
    "seed",
    "presencePenalty",
    "frequencyPenalty",
    "responseLogprobs",
    "logprobs",
    "enableEnhancedCivicAnswers",
    "speechConfig",
    "thinkingConfig",
    "imageConfig",
    "mediaResolution",
    "audioTimestamp",
];

/// What a part may be.
const DATA: [&str; 7] = [
    "text",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "executableCode",
    "codeExecutionResult",
];

/// What a part may say beside that.
const BESIDE: [&str; 4] = ["thought", "thoughtSignature", "videoMetadata", "mediaResolution"];

/// Google's own subset of a schema: what `parameters` and `responseSchema` are made of.
const SCHEMA: [&str; 23] = [
    "type",
    "format",
    "title",
    "description",
    "nullable",
    "enum",
    "maxItems",
    "minItems",
    "properties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "example",
    "anyOf",
    "propertyOrdering",
    "default",
    "items",
    "minimum",
    "maximum",
    "additionalProperties",
];

const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "array", "object", "null"];

/// Reads a call to `model`.
pub(in super::super) fn read(body: &Value, host: Host, model: &str) -> Read<Wants> {
    let mut known = BODY.to_vec();
    if host == Host::Vertex {
        known.extend(["labels", "modelArmorConfig"]);
    }
    let body = At::body(body).object(&known)?;
    let mut wants = Wants::default();
    if let Some(system) = body.get("systemInstruction") {
        let system = system.object(&["role", "parts"])?;
        for part in system.need("parts")?.list()? {
            wants.chars += chars(part.object(&["text"])?.text("text")?);
        }
    }
    contents(&body, model, &mut wants)?;
    for tool in body.get("tools").map_or(Ok(Vec::new()), |tools| tools.list())? {
        declarations(&tool, host, &mut wants)?;
    }
    if let Some(config) = body.get("toolConfig") {
        wants.forced = forced(&config)?;
    }
    if let Some(config) = body.get("generationConfig") {
        wants.limit = generation(&config, host)?;
    }
    if let Some(tier) = body.get("serviceTier") {
        tier.text()?;
    }
    Ok(wants)
}

fn contents(body: &Object<'_>, model: &str, wants: &mut Wants) -> Read<()> {
    let contents = body.need("contents")?;
    let turns = contents.list()?;
    if turns.is_empty() {
        return contents.wrong("contents is not specified");
    }
    // Names of the calls that wait for a response.
    let mut open: Vec<&str> = Vec::new();
    for turn in &turns {
        let turn = turn.object(&["role", "parts"])?;
        let role = turn
            .get("role")
            .map_or(Ok("user"), |role| role.word(&["user", "model", "function"]))?;
        let parts = turn.need("parts")?;
        let parts = match parts.list()? {
            empty if empty.is_empty() => return parts.wrong("must not be empty"),
            parts => parts,
        };
        let (mut calls, mut responses) = (Vec::new(), 0);
        for part in &parts {
            match self::part(part, wants)? {
                Part::Call { name, signed } => {
                    let strict = model.starts_with("gemini-3") && calls.is_empty();
                    if strict && !signed {
                        return part.wrong("function call is missing a thought_signature");
                    }
                    calls.push(name);
                }
                Part::Response(name) => {
                    let Some(at) = open.iter().position(|open| *open == name) else {
                        return part.wrong(&format!("answers no call of '{name}'"));
                    };
                    open.remove(at);
                    responses += 1;
                }
                Part::Other => {}
            }
        }
        if role != "model" && !calls.is_empty() {
            return turn.wrong("only the role model calls functions");
        }
        if responses == 0 && !open.is_empty() {
            return turn.wrong(
                "the number of function response parts must equal the number of function call parts \
                 of the function call turn",
            );
        }
        wants.last = match role {
            "model" => Speaker::Other,
            _ if responses > 0 => Speaker::Tool,
            _ => Speaker::User,
        };
        open.extend(calls);
    }
    if open.is_empty() { Ok(()) } else { contents.wrong("the last turn calls a function") }
}

enum Part<'a> {
    Call { name: &'a str, signed: bool },
    Response(&'a str),
    Other,
}

fn part<'a>(at: &At<'a>, wants: &mut Wants) -> Read<Part<'a>> {
    let part = at.object(&[&DATA[..], &BESIDE[..]].concat())?;
    if let Some(thought) = part.get("thought") {
        thought.flag()?;
    }
    if let Some(signature) = part.get("thoughtSignature") {
        signature.bytes(true)?;
    }
    let kind = part.one_of(&DATA)?;
    let data = part.need(kind)?;
    match kind {
        "text" => wants.chars += chars(data.text()?),
        "inlineData" => {
            let data = data.object(&["mimeType", "data", "displayName"])?;
            data.text("mimeType")?;
            data.need("data")?.bytes(true)?;
        }
        "fileData" => {
            let data = data.object(&["mimeType", "fileUri", "displayName"])?;
            data.text("mimeType")?;
            data.text("fileUri")?;
        }
        "functionCall" => {
            let call = data.object(&["id", "name", "args"])?;
            if let Some(args) = call.get("args") {
                args.open_object()?;
                wants.chars += chars(&args.value.to_string());
            }
            let signed = part.has("thoughtSignature");
            return Ok(Part::Call { name: call.text("name")?, signed });
        }
        "functionResponse" => {
            let known = ["id", "name", "response", "parts", "willContinue", "scheduling"];
            let response = data.object(&known)?;
            let content = response.need("response")?;
            content.open_object()?;
            wants.chars += chars(&content.value.to_string());
            return Ok(Part::Response(response.text("name")?));
        }
        _ => {}
    }
    Ok(Part::Other)
}

/// Reads one entry of `tools`: declarations, or one of Google's own tools, in either spelling.
fn declarations(tool: &At<'_>, host: Host, wants: &mut Wants) -> Read<()> {
    const OWN: [&str; 14] = [
        "functionDeclarations",
        "googleSearch",
        "google_search",
        "googleSearchRetrieval",
        "google_search_retrieval",
        "codeExecution",
        "code_execution",
        "urlContext",
        "url_context",
        "computerUse",
        "computer_use",
        "fileSearch",
        "googleMaps",
        "google_maps",
    ];
    let tool = tool.object(&OWN)?;
    let Some(given) = tool.get("functionDeclarations") else {
        return tool.one_of(&OWN).map(|_| ());
    };
    for given in given.list()? {
        let known = [
            "name",
            "description",
            "parameters",
            "parametersJsonSchema",
            "response",
            "responseJsonSchema",
            "behavior",
        ];
        let declared = given.object(&known)?;
        let name = declared.need("name")?;
        if !is_name(name.text()?, ".:") {
            return name.wrong("invalid function name");
        }
        if let Some(description) = declared.get("description") {
            description.text()?;
        }
        let own = declared.get("parameters");
        let standard = declared.get("parametersJsonSchema");
        if let Some(own) = &own {
            schema(own, host)?;
        }
        if own.is_some() && standard.is_some() {
            return declared.wrong("parameters and parametersJsonSchema cannot stand together");
        }
        let schema = own.or(standard).map(|at| at.value.clone());
        wants.tools.push(Tool { name: name.text()?.to_owned(), schema });
    }
    Ok(())
}

/// Looks whether a schema keeps to Google's subset.
fn schema(at: &At<'_>, host: Host) -> Read<()> {
    let mut known = SCHEMA.to_vec();
    match host {
        // The Gemini API answers "Unknown name" to it.
        Host::Gemini => known.retain(|name| *name != "additionalProperties"),
        Host::Vertex => known.extend(["$ref", "$defs", "ref", "defs"]),
    }
    let object = at.object(&known)?;
    if let Some(kind) = object.get("type") {
        let word = kind.text()?.to_lowercase();
        if !TYPES.contains(&word.as_str()) {
            return kind.wrong("is no type of Google's schemas");
        }
    }
    if let Some(items) = object.get("items") {
        schema(&items, host)?;
    }
    for one in object.get("anyOf").map_or(Ok(Vec::new()), |any| any.list())? {
        schema(&one, host)?;
    }
    if let Some(properties) = object.get("properties") {
        let properties = properties.open_object()?;
        for name in properties.names() {
            schema(&properties.need(name)?, host)?;
        }
    }
    object.get("required").map_or(Ok(()), |required| required.texts())
}

fn forced(config: &At<'_>) -> Read<Forced> {
    let config = config.object(&[
        "functionCallingConfig",
        "retrievalConfig",
        "includeServerSideToolInvocations",
    ])?;
    let Some(calling) = config.get("functionCallingConfig") else { return Ok(Forced::No) };
    let calling =
        calling.object(&["mode", "allowedFunctionNames", "streamFunctionCallArguments"])?;
    let mode = match calling.get("mode") {
        Some(mode) => mode.word(&["AUTO", "ANY", "NONE", "VALIDATED"])?,
        None => "AUTO",
    };
    let allowed = calling.get("allowedFunctionNames");
    if let Some(allowed) = &allowed {
        allowed.texts()?;
        if mode != "ANY" && mode != "VALIDATED" {
            return allowed.wrong("allowed_function_names should only be set when the mode is ANY");
        }
    }
    let name = allowed.and_then(|names| names.value.get(0)?.as_str().map(str::to_owned));
    Ok(match (mode, name) {
        ("NONE", _) => Forced::Never,
        ("ANY", Some(name)) => Forced::Named(name),
        ("ANY", None) => Forced::Any,
        _ => Forced::No,
    })
}

/// Reads the generation's settings; answers the most tokens of output.
fn generation(config: &At<'_>, host: Host) -> Read<Option<u64>> {
    let mut known = GENERATION.to_vec();
    if host == Host::Vertex {
        known.push("routingConfig");
    }
    let config = config.object(&known)?;
    config.numbers(&["temperature", "topP", "topK", "presencePenalty", "frequencyPenalty"])?;
    config.wholes(&["candidateCount", "maxOutputTokens", "logprobs"])?;
    if let Some(stop) = config.get("stopSequences") {
        stop.texts()?;
        if stop.list()?.len() > 5 {
            return stop.wrong("at most 5 stop sequences");
        }
    }
    if let Some(own) = config.get("responseSchema") {
        schema(&own, host)?;
    }
    if config.has("responseSchema") && config.has("responseJsonSchema") {
        return config.wrong("responseSchema and responseJsonSchema cannot stand together");
    }
    let schema = config.has("responseSchema") || config.has("responseJsonSchema");
    let json = config.get("responseMimeType").and_then(|kind| kind.value.as_str());
    if schema && json != Some("application/json") {
        return config.wrong("a response schema needs the response mime type application/json");
    }
    if let Some(thinking) = config.get("thinkingConfig") {
        let thinking = thinking.object(&["includeThoughts", "thinkingBudget", "thinkingLevel"])?;
        thinking.numbers(&["thinkingBudget"])?;
        if let Some(level) = thinking.get("thinkingLevel") {
            level
                .word(&["MINIMAL", "LOW", "MEDIUM", "HIGH", "minimal", "low", "medium", "high"])?;
            if thinking.has("thinkingBudget") {
                return thinking.wrong("only one of thinking_budget and thinking_level may be set");
            }
        }
    }
    config.get("maxOutputTokens").map(|limit| limit.whole()).transpose()
}
