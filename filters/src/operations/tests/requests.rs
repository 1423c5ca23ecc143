//! What is read of a request, what is refused, and what of it reaches a provider.

use bytes::Bytes;

use super::super::{Asked, Inbound, Kind, Payload, Refused, Told, Units};
use super::{faults, upstream};
use crate::rejection::{Code, Rejection};
use crate::secret::Secret;

fn read(kind: Kind, body: &str) -> Result<Asked, Rejection> {
    Asked::read(kind, &Bytes::copy_from_slice(body.as_bytes()), None)
}

/// What OpenAI is sent of this body.
fn sent(kind: Kind, body: &str, keep_user: bool) -> String {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let asked = Asked::read(kind, &body, None).unwrap();
    let sent = upstream("openai", None, &[]).operation(&asked, &body, "m\"1", keep_user).unwrap();
    let Payload::Json(pieces) = sent.body else { panic!("a form") };
    String::from_utf8(pieces.concat()).unwrap()
}

#[test]
fn every_fault_is_listed_in_declaration_order() {
    for (kind, body, want) in [
        (
            Kind::Embeddings,
            r#"{"input":7,"user":1,"encoding_format":2,"dimensions":"x"}"#,
            &[
                "missing body.model",
                "string_type body.input.str",
                "list_type body.input.list[str]",
                "string_type body.user",
                "string_type body.encoding_format",
                "int_parsing body.dimensions",
            ][..],
        ),
        (
            Kind::Embeddings,
            r#"{"model":"m","input":null}"#,
            &["string_type body.input.str", "list_type body.input.list[str]"],
        ),
        (
            Kind::Embeddings,
            r#"{"model":"m","input":["a",{}]}"#,
            &["string_type body.input.str", "string_type body.input.list[str].1"],
        ),
        (Kind::Embeddings, r#"{"model":"m"}"#, &["missing body.input"]),
        (
            Kind::Moderations,
            r#"{"model":null,"input":[1]}"#,
            &[
                "string_type body.model",
                "string_type body.input.str",
                "string_type body.input.list[str].0",
                "dict_type body.input.list[dict[str,any]].0",
            ],
        ),
        (
            Kind::Rerank,
            r#"{"model":"m","documents":[],"top_n":0,"max_tokens_per_doc":-1}"#,
            &[
                "missing body.query",
                "too_short body.documents",
                "greater_than body.top_n",
                "greater_than body.max_tokens_per_doc",
            ],
        ),
        (
            Kind::Rerank,
            r#"{"model":"m","query":1,"documents":["a",2],"top_n":"x"}"#,
            &["string_type body.query", "string_type body.documents.1", "int_parsing body.top_n"],
        ),
        (
            Kind::Rerank,
            r#"{"model":"m","query":"q","documents":"d"}"#,
            &["list_type body.documents"],
        ),
    ] {
        assert_eq!(faults(&read(kind, body).unwrap_err()), want, "{kind:?} {body}");
    }
}

#[test]
fn images_and_speech_have_their_faults() {
    for (kind, body, want) in [
        (
            Kind::Images,
            r#"{"model":"m","n":1.5,"size":5}"#,
            &["missing body.prompt", "int_from_float body.n", "string_type body.size"][..],
        ),
        (
            Kind::Speech,
            r#"{"model":"m","voice":5,"speed":"fast"}"#,
            &["missing body.input", "dict_type body.voice", "float_parsing body.speed"],
        ),
        (
            Kind::Speech,
            r#"{"model":"m","model":"n","input":"x","voice":"v"}"#,
            &["value_error body.model"],
        ),
        (Kind::Speech, "[1]", &["model_attributes_type body"]),
        (Kind::Images, "", &["missing body"]),
    ] {
        assert_eq!(faults(&read(kind, body).unwrap_err()), want, "{kind:?} {body}");
    }
    assert_eq!(read(Kind::Images, "{").unwrap_err().code, Code::InvalidJson);
}

#[test]
fn what_a_request_asks_is_read() {
    let units = |kind, body| read(kind, body).unwrap().units;
    let text = |chars, tokens| Units::Text { chars, tokens };
    for (kind, body, want) in [
        (Kind::Embeddings, r#"{"model":"m","input":"héllo"}"#, text(5, 0)),
        (Kind::Embeddings, r#"{"model":"m","input":["ab","c"]}"#, text(3, 0)),
        (Kind::Embeddings, r#"{"model":"m","input":[1,2,3]}"#, text(0, 3)),
        (Kind::Embeddings, r#"{"model":"m","input":[[1,2],[3,4]]}"#, text(0, 4)),
        (Kind::Rerank, r#"{"model":"m","query":"abc","documents":["de","f"]}"#, text(6, 0)),
        (Kind::Images, r#"{"model":"m","prompt":"x"}"#, Units::Images(1)),
        (Kind::Images, r#"{"model":"m","prompt":"x","n":null}"#, Units::Images(1)),
        (Kind::Images, r#"{"model":"m","prompt":"x","n":0}"#, Units::Images(1)),
        (Kind::Images, r#"{"model":"m","prompt":"x","n":"4"}"#, Units::Images(4)),
        (Kind::Moderations, r#"{"model":"m","input":[{"type":"text","text":"x"}]}"#, Units::Call),
        (Kind::Speech, r#"{"model":"m","input":"x","voice":{"id":"v"}}"#, Units::Call),
    ] {
        assert_eq!(units(kind, body), want, "{body}");
    }
    let asked =
        read(Kind::Images, r#"{"model":"p:m","prompt":"x","user":"u","stream":true}"#).unwrap();
    assert_eq!((&*asked.model, asked.user.as_deref(), asked.stream), ("p:m", Some("u"), true));
    assert_eq!(
        read(Kind::Speech, r#"{"model":"m","input":"x","voice":"v","user":""}"#).unwrap().user,
        None
    );
}

#[test]
fn include_raw_stands_in_the_query() {
    let body = Bytes::from_static(br#"{"model":"m","input":"x"}"#);
    let raw = |query| Asked::read(Kind::Moderations, &body, query).map(|asked| asked.include_raw);
    assert!(!raw(None).unwrap() && !raw(Some("a=b&include_raw=0")).unwrap());
    assert!(raw(Some("include_raw=true")).unwrap() && raw(Some("x&include_raw=yes")).unwrap());
    let refused = raw(Some("include_raw=perhaps")).unwrap_err();
    assert_eq!(faults(&refused), ["bool_parsing query.include_raw"]);
}

#[test]
fn the_callers_bytes_reach_a_provider_of_the_same_format() {
    let body = r#"{ "model" : "p:m", "input":[1, 2],"dimensions":1e2, "new_field":{"a":1.50},"user":"u" }"#;
    assert_eq!(
        sent(Kind::Embeddings, body, true),
        r#"{ "model" : "m\"1", "input":[1, 2],"dimensions":1e2, "new_field":{"a":1.50},"user":"u" }"#
    );
    assert_eq!(
        sent(Kind::Embeddings, body, false),
        r#"{ "model" : "m\"1", "input":[1, 2],"dimensions":1e2, "new_field":{"a":1.50} }"#
    );
    // The user is the gateway's own where the format has none; what steers is never passed.
    let body = r#"{"user":"u","session_label":null,"model":"m","input":"x","voice":"v","api_base":"http://evil","guardrails":null,"stream_format":"audio"}"#;
    assert_eq!(
        sent(Kind::Speech, body, true),
        r#"{"model":"m\"1","input":"x","voice":"v","stream_format":"audio"}"#
    );
    assert_eq!(
        sent(Kind::Moderations, r#"{"model":"m","input":"x","user":null}"#, true),
        r#"{"model":"m\"1","input":"x"}"#
    );
    assert_eq!(
        sent(
            Kind::Images,
            r#"{"model":"m","prompt":"x","user":"u","background":"opaque","n":null}"#,
            true
        ),
        r#"{"model":"m\"1","prompt":"x","user":"u","background":"opaque","n":null}"#
    );
}

#[test]
fn a_provider_that_does_not_offer_it_is_named() {
    let body = Bytes::from_static(
        br#"{"model":"m","input":"x","query":"q","documents":["d"],"prompt":"p","voice":"v"}"#,
    );
    for (kind, provider, want) in [
        (Kind::Moderations, "anthropic", "Provider anthropic does not support moderation"),
        (Kind::Embeddings, "anthropic", "Provider anthropic does not support embeddings"),
        (Kind::Rerank, "openai", "Provider openai does not support rerank"),
        (Kind::Images, "mistral", "Provider mistral does not support image generation"),
        (Kind::Speech, "groq", "Provider groq does not support speech"),
    ] {
        let asked = Asked::read(kind, &body, None).unwrap();
        let refused =
            upstream(provider, None, &[]).operation(&asked, &body, "m", true).unwrap_err();
        let Refused::Rejected(refused) = refused else { panic!("{refused:?}") };
        assert_eq!((refused.code, &*refused.message), (Code::Unsupported, want));
    }
}

#[test]
fn every_operation_has_its_path() {
    let version = [("api_version".to_owned(), Secret::new("2025-01-01"))];
    let google = [("project".to_owned(), Secret::new("p1"))];
    for (kind, provider, base, settings, want) in [
        (Kind::Embeddings, "openai", None, &[][..], "/v1/embeddings"),
        (Kind::Moderations, "openai", None, &[], "/v1/moderations"),
        (Kind::Images, "openai", None, &[], "/v1/images/generations"),
        (Kind::Speech, "openai", None, &[], "/v1/audio/speech"),
        (Kind::Rerank, "otari", Some("http://g/v1"), &[], "/v1/rerank"),
        (Kind::Rerank, "cohere", None, &[], "/v2/rerank"),
        (Kind::Rerank, "cohere", Some("http://c/v2"), &[], "/v2/rerank"),
        (Kind::Embeddings, "cohere", Some("http://c/v1"), &[], "/v2/embed"),
        (Kind::Rerank, "voyage", None, &[], "/v1/rerank"),
        (Kind::Rerank, "together", None, &[], "/v1/rerank"),
        (Kind::Embeddings, "mistral", None, &[], "/v1/embeddings"),
        (Kind::Embeddings, "ollama", None, &[], "/api/embed"),
        (Kind::Embeddings, "ollama", Some("http://o/api"), &[], "/api/embed"),
        (Kind::Embeddings, "gemini", None, &[], "/v1beta/models/m%201:batchEmbedContents"),
        (
            Kind::Embeddings,
            "vertexai",
            None,
            &google,
            "/v1beta1/projects/p1/locations/us-central1/publishers/google/models/m%201:predict",
        ),
        (Kind::Embeddings, "bedrock", Some("http://b"), &[], "/model/m%201/invoke"),
        (Kind::Embeddings, "sagemaker", Some("http://s"), &[], "/endpoints/m%201/invocations"),
        (
            Kind::Embeddings,
            "azureopenai",
            Some("http://a"),
            &version,
            "/openai/deployments/m%201/embeddings?api-version=2025-01-01",
        ),
        (
            Kind::Images,
            "azureopenai",
            Some("http://a/openai"),
            &version,
            "/openai/deployments/m%201/images/generations?api-version=2025-01-01",
        ),
        (
            Kind::Speech,
            "azureopenai",
            Some("http://a/openai/v1"),
            &version,
            "/openai/v1/audio/speech",
        ),
        (
            Kind::Embeddings,
            "azure",
            Some("http://a/models"),
            &[],
            "/models/embeddings?api-version=2024-05-01-preview",
        ),
        (
            Kind::Embeddings,
            "watsonx",
            Some("http://w"),
            &[],
            "/ml/v1/text/embeddings?version=2024-10-08",
        ),
    ] {
        let body =
            br#"{"model":"m","input":"x","query":"q","documents":["d"],"prompt":"p","voice":"v"}"#;
        let body = Bytes::from_static(body);
        let asked = Asked::read(kind, &body, None).unwrap();
        let sent = upstream(provider, base, settings).operation(&asked, &body, "m 1", true);
        assert_eq!(sent.unwrap().path.as_str(), want, "{provider}");
    }
}

#[test]
fn another_gateway_is_asked_for_the_raw_words_too() {
    let body = Bytes::from_static(br#"{"model":"m","input":"x"}"#);
    let asked = Asked::read(Kind::Moderations, &body, Some("include_raw=1")).unwrap();
    let sent =
        upstream("otari", Some("http://g/v1"), &[]).operation(&asked, &body, "m", true).unwrap();
    assert_eq!(sent.path.as_str(), "/v1/moderations?include_raw=true");
    let answer = Bytes::from_static(br#"{"id":"x","model":"m","results":[{"provider_raw":{}}]}"#);
    assert!(sent.inbound.answer(&answer, &Told::default()).unwrap().body.is_none());
}

#[test]
fn speech_has_the_type_of_its_format() {
    let kind = |more: &str| {
        let body = format!(r#"{{"model":"m","input":"x","voice":"v"{more}}}"#);
        let kind = read(Kind::Speech, &body).unwrap().content_type();
        kind.map(|kind| kind.to_str().unwrap().to_owned())
    };
    for (format, want) in [
        ("mp3", "audio/mpeg"),
        ("opus", "audio/opus"),
        ("aac", "audio/aac"),
        ("flac", "audio/flac"),
        ("wav", "audio/wav"),
        ("pcm", "audio/L16"),
    ] {
        assert_eq!(kind(&format!(r#","response_format":"{format}""#)).as_deref(), Some(want));
    }
    assert_eq!(kind("").as_deref(), Some("audio/mpeg"));
    assert_eq!(kind(r#","response_format":null"#).as_deref(), Some("audio/mpeg"));
    assert_eq!(kind(r#","response_format":"ogg""#), None);
    assert_eq!(
        kind(r#","stream_format":"sse""#),
        None,
        "the provider's own, which is that of events"
    );
}

#[test]
fn an_answer_that_is_none_is_a_failure_with_the_providers_words() {
    let body = Bytes::from_static(br#"{"model":"m","input":"x","prompt":"p"}"#);
    for (kind, answer, want) in [
        (Kind::Embeddings, r#"{"error":{"message":"no such model"}}"#, "no such model"),
        (Kind::Embeddings, r#"{"object":"list"}"#, "the answer has no `data`"),
        (Kind::Images, r#"{"error":"busy"}"#, "busy"),
        (Kind::Images, "<html>", "the answer is no JSON object"),
        (Kind::Moderations, r#"{"message":"no"}"#, "no"),
        (Kind::Moderations, r#"{"results":5}"#, "the answer has no `results`"),
    ] {
        let asked = Asked::read(kind, &body, None).unwrap();
        let sent = upstream("openai", None, &[]).operation(&asked, &body, "m", true).unwrap();
        let failure = sent.inbound.answer(&answer.to_owned().into(), &Told::default()).unwrap_err();
        assert_eq!(failure.message, want, "{kind:?} {answer}");
    }
}

#[test]
fn images_are_counted_and_embeddings_have_their_tokens() {
    let read = |kind, answer: &'static str| {
        let body = Bytes::from_static(br#"{"model":"m","input":"x","prompt":"p"}"#);
        let asked = Asked::read(kind, &body, None).unwrap();
        let inbound: Inbound =
            upstream("openai", None, &[]).operation(&asked, &body, "m", true).unwrap().inbound;
        let mut tally = inbound.tally();
        answer.as_bytes().chunks(7).for_each(|piece| tally.feed(piece));
        let whole =
            inbound.answer(&Bytes::from_static(answer.as_bytes()), &Told::default()).unwrap();
        assert!(whole.body.is_none());
        assert_eq!(tally.finish(), whole.measured, "{answer}");
        whole.measured
    };
    let images = |answer| read(Kind::Images, answer).images;
    assert_eq!(images(r#"{"created":1,"data":[{"b64_json":"AA\"==]},"},{"url":"x"}]}"#), Some(2));
    assert_eq!(images(r#"{"data":[]}"#), Some(0));
    assert_eq!(
        images(r#"{"usage":{"data":[1,2,3]},"data":[{"a":[1,2]}],"x":{"data":[1,2]}}"#),
        Some(1)
    );
    let tokens = |answer| {
        let usage = read(Kind::Embeddings, answer).usage;
        usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens))
    };
    assert_eq!(
        tokens(r#"{"data":[{"embedding":[1]}],"usage":{"prompt_tokens":3,"total_tokens":4}}"#),
        Some((3, 0, 4))
    );
    assert_eq!(tokens(r#"{"usage":{"total_tokens":5} , "data":[]}"#), Some((5, 0, 5)));
    assert_eq!(tokens(r#"{"data":[],"usage":null}"#), None);
}

#[test]
fn routes_and_fields_are_declared() {
    for kind in Kind::ALL {
        assert!(kind.route().starts_with("/v1/"));
        let names: Vec<&str> = kind.fields().iter().map(|field| field.name).collect();
        assert!(names.contains(&"model") && names.contains(&"user"), "{kind:?}");
    }
}
