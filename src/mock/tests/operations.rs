//! The operations beside generation, as a raw caller sees them.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{Reply, Server, finish};
use crate::mock::Options;

impl Server {
    async fn post(&self, path: &str, body: Value) -> Reply {
        self.ask("POST", path, &body.to_string()).await
    }

    async fn ok(&self, path: &str, body: Value) -> Value {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        reply.json()
    }

    /// A form with a file of so many bytes, in pieces of `step`; `chunked`: in chunks, without a length.
    async fn form(&self, fields: &[(&str, &str)], bytes: usize, chunked: bool) -> Reply {
        let mut body = Vec::new();
        for (name, value) in fields {
            body.extend_from_slice(
                format!(
                    "--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
                )
                .as_bytes(),
            );
        }
        let head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n";
        body.extend_from_slice(head.as_bytes());
        body.extend(std::iter::repeat_n(b'-', bytes));
        body.extend_from_slice(b"\r\n--b--\r\n");
        let length = match chunked {
            true => "transfer-encoding: chunked".to_owned(),
            false => format!("content-length: {}", body.len()),
        };
        let mut stream = self.connect().await;
        let head = format!(
            "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: multipart/form-data; boundary=b\r\n{length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        if chunked {
            for piece in body.chunks(50_000) {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
                stream.write_all(piece).await.unwrap();
                stream.write_all(b"\r\n").await.unwrap();
            }
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        } else {
            stream.write_all(&body).await.unwrap();
        }
        finish(stream).await
    }
}

#[tokio::test]
async fn moderations_flag_and_are_strict_when_asked() {
    let server = Server::start().await;
    let body = json!({"model": "mod", "input": ["kill", "hug"]});
    let answer = server.ok("/v1/moderations", body).await;
    let flags = [&answer["results"][0]["flagged"], &answer["results"][1]["flagged"]];
    assert_eq!(flags, [&json!(true), &json!(false)]);
    assert!(answer["results"][0]["categories"]["illicit"].is_null());
    let body = json!({"model": "mod?strict=mistral", "input": "kill"});
    assert!(server.ok("/v1/moderations", body).await["results"][0].get("flagged").is_none());
    let body = json!({"model": "mod?strict", "input": "x", "user": "u"});
    assert_eq!(server.post("/v1/moderations", body).await.status, 400);
    let body = json!({"model": "mod?status=503", "input": "x"});
    assert_eq!(server.post("/v1/moderations", body).await.status, 503);
}

#[tokio::test]
async fn documents_are_ranked_in_three_formats() {
    let server = Server::start().await;
    let body = |model: &str, top: &str| json!({"model": model, "query": "q", "documents": ["a", "abc", "ab"], top: 2});
    let indexes = |list: &Value| -> Vec<u64> {
        list.as_array().unwrap().iter().map(|item| item["index"].as_u64().unwrap()).collect()
    };
    let answer = server.ok("/v1/rerank", body("r", "top_n")).await;
    assert_eq!(indexes(&answer["results"]), [1, 2]);
    assert_eq!(answer["usage"]["total_tokens"], 3);
    let answer = server.ok("/v1/rerank", body("r?strict=voyage", "top_k")).await;
    assert_eq!(
        (indexes(&answer["data"]), &answer["usage"]["total_tokens"]),
        (vec![1, 2], &json!(3))
    );
    let answer = server.ok("/v1/rerank", body("r?strict=together", "top_n")).await;
    assert_eq!(answer["object"], "rerank");
    let answer = server.ok("/v2/rerank", body("r", "top_n")).await;
    assert_eq!(answer["meta"]["tokens"]["input_tokens"], 3);
    for (path, top) in [("/v1/rerank", "top_n"), ("/v2/rerank", "top_k")] {
        let reply = server.post(path, body("r?strict=voyage", top)).await;
        assert_eq!(reply.status, 400, "{path}: {reply:?}");
    }
}

#[tokio::test]
async fn images_come_as_asked() {
    let server = Server::start().await;
    let body =
        json!({"model": "img?bytes=3", "prompt": "x", "n": 2, "response_format": "b64_json"});
    let answer = server.ok("/v1/images/generations", body).await;
    assert_eq!(answer["data"], json!([{"b64_json": "AAAA"}, {"b64_json": "AQEB"}]));
    let body = json!({"model": "img?fault=no_done&usage=none", "prompt": "x", "n": 3});
    let answer = server.ok("/v1/images/generations", body).await;
    assert_eq!((answer["data"].as_array().unwrap().len(), answer.get("usage")), (2, None));
    let body = json!({"model": "img", "prompt": "x", "n": 11});
    assert_eq!(server.post("/v1/images/generations", body).await.status, 400);
}

#[tokio::test]
async fn speech_comes_in_pieces_and_breaks_off_when_asked() {
    let server = Server::start().await;
    let speak = |model: &str, format: &str| json!({"model": model, "input": "x", "voice": "v", "response_format": format});
    let reply = server.post("/v1/audio/speech", speak("tts?chunks=3&bytes=10", "wav")).await;
    assert!(
        reply.head.contains("content-type: audio/wav\r\ntransfer-encoding: chunked")
            || reply.head.contains("audio/wav"),
        "{}",
        reply.head
    );
    assert_eq!((reply.body.len(), reply.complete), (30, true));
    let reply = server.post("/v1/audio/speech", speak("tts?bytes=10&fault=cut:2", "mp3")).await;
    assert_eq!((reply.body.len(), reply.complete), (20, false));
    let reply = server.post("/v1/audio/speech", speak("tts", "ogg")).await;
    assert_eq!(reply.status, 400);
    let reply = server.post("/v1/audio/speech", speak("tts?delay_ms=1&fault=html", "mp3")).await;
    assert!(reply.head.contains("text/html"));
}

#[tokio::test]
async fn a_recording_is_counted_and_not_kept() {
    let server = Server::start_with(Options { record: true }).await;
    let fields = [("model", "whisper"), ("timestamp_granularities[]", "word")];
    let crc = format!("{:08x}", crc32fast::hash(&vec![b'-'; 300_000]));
    for chunked in [false, true] {
        let reply = server.form(&fields, 300_000, chunked).await;
        let answer = reply.json();
        assert_eq!(answer["text"], format!("a.wav audio/wav 300000 {crc}"), "{reply:?}");
        assert_eq!(answer["file"]["bytes"], 300_000);
        assert_eq!(answer["fields"], json!(["model", "timestamp_granularities[]", "file"]));
    }
    for (format, start) in [("text", "a.wav"), ("srt", "1\n00:00"), ("vtt", "WEBVTT")] {
        let reply = server.form(&[("model", "w"), ("response_format", format)], 5, false).await;
        assert!(reply.text().starts_with(start) && reply.head.contains("text/plain"), "{reply:?}");
    }
    let verbose =
        server.form(&[("model", "w"), ("response_format", "verbose_json")], 5, false).await;
    assert_eq!(verbose.json()["task"], "transcribe");
    let events = server.form(&[("model", "w"), ("stream", "true")], 5, false).await.events();
    assert_eq!(events[1]["type"], "transcript.text.done");
    for (fields, status) in [
        (&[("model", "w?status=429")][..], 429),
        (&[("model", "w?strict"), ("surprise", "x")], 400),
        (&[("model", "w"), ("temperature", "hot")], 400),
        (&[], 400),
    ] {
        assert_eq!(server.form(fields, 5, false).await.status, status, "{fields:?}");
    }
    assert_eq!(server.post("/v1/audio/transcriptions", json!({"model": "w"})).await.status, 400);
    let seen = server.ask("GET", "/__mock/requests", "").await.json();
    let body = seen["requests"][0]["body"].as_str().unwrap();
    assert!(body.contains("\"filename\":\"a.wav\"") && body.contains("whisper"), "{body}");
}

#[tokio::test]
async fn every_family_has_its_vectors() {
    let server = Server::start().await;
    let texts = json!(["one", "two"]);
    let google = json!({"requests": [
        {"model": "models/m", "content": {"parts": [{"text": "one"}]}, "outputDimensionality": 3},
        {"model": "models/m", "content": {"parts": [{"text": "two"}]}, "outputDimensionality": 3}]});
    let cohere = json!({"model": "c", "texts": texts, "input_type": "search_document", "output_dimension": 3});
    let mut at_amazon = cohere.clone();
    at_amazon.as_object_mut().unwrap().remove("model");
    for (path, body, vector, wrong) in [
        (
            "/v1beta1/projects/p/locations/l/publishers/google/models/m:predict",
            json!({"instances": [{"content": "one"}], "parameters": {"outputDimensionality": 3}}),
            "/predictions/0/embeddings/values",
            "input",
        ),
        (
            "/model/titan/invoke",
            json!({"inputText": "one", "dimensions": 3}),
            "/embedding",
            "texts",
        ),
        ("/model/cohere.embed-v4%3A0/invoke", at_amazon, "/embeddings/float/1", "model"),
        (
            "/openai/deployments/d/embeddings?api-version=1",
            json!({"input": "one", "dimensions": 3}),
            "/data/0/embedding",
            "x",
        ),
        (
            "/models/embeddings?api-version=1",
            json!({"model": "m", "input": ["one"], "dimensions": 3}),
            "/data/0/embedding",
            "",
        ),
        ("/v2/embed", cohere, "/embeddings/float/0", "input"),
        (
            "/api/embed",
            json!({"model": "o", "input": texts, "dimensions": 3}),
            "/embeddings/1",
            "encoding_format",
        ),
        (
            "/ml/v1/text/embeddings?version=1",
            json!({"model_id": "w", "inputs": texts, "project_id": "p"}),
            "/results/1/embedding",
            "model",
        ),
    ] {
        let answer = server.ok(path, body.clone()).await;
        let length = answer
            .pointer(vector)
            .unwrap_or_else(|| panic!("{path}: {answer}"))
            .as_array()
            .unwrap()
            .len();
        assert_eq!(length, if path.starts_with("/ml") { 8 } else { 3 }, "{path}");
        if !wrong.is_empty() {
            let mut body = body;
            body[wrong] = json!("x");
            assert_eq!(server.post(path, body).await.status, 400, "{path}: {wrong}");
        }
    }
    // Google's own key and Amazon's signature are looked for: what these tests send is a bearer token.
    assert_eq!(server.post("/v1beta/models/m:batchEmbedContents", google).await.status, 403);
    let reply = server.post("/endpoints/e/invocations", json!({"inputs": "one"})).await;
    assert_eq!(reply.status, 403);
    let told = server
        .post("/model/cohere.x/invoke", json!({"texts": ["abcde"], "input_type": "clustering"}))
        .await;
    assert!(told.head.contains("x-amzn-bedrock-input-token-count: 2"), "{}", told.head);
    assert_eq!(server.ask("GET", "/v2/embed", "").await.status, 405);
}

#[tokio::test]
async fn openais_vectors_have_the_dialects_of_others() {
    let server = Server::start().await;
    for (model, body) in [
        (
            "e?strict=voyage",
            json!({"input": "x", "output_dimension": 3, "encoding_format": "base64"}),
        ),
        ("e?strict=mistral", json!({"input": ["x"], "output_dimension": 3})),
        ("e?strict=together", json!({"input": ["x"]})),
        ("e?strict", json!({"input": [1, 2], "dimensions": 3, "user": "u"})),
    ] {
        let mut body = body;
        body["model"] = model.into();
        server.ok("/v1/embeddings", body.clone()).await;
        body["surprise"] = 1.into();
        let status = server.post("/v1/embeddings", body).await.status;
        assert_eq!(status, if model.ends_with("mistral") { 422 } else { 400 }, "{model}");
    }
}

#[tokio::test]
async fn a_deployment_of_azure_has_the_others_too() {
    let server = Server::start().await;
    let path = |tail: &str| format!("/openai/deployments/d/{tail}?api-version=2024-10-21");
    let body = json!({"model": "img", "prompt": "x"});
    let answer = server.ok(&path("images/generations"), body).await;
    assert_eq!(answer["data"].as_array().unwrap().len(), 1);
    let reply =
        server.post(&path("audio/speech"), json!({"model": "t", "input": "x", "voice": "v"})).await;
    assert_eq!((reply.status, reply.complete), (200, true));
    assert_eq!(server.ask("GET", &path("audio/speech"), "").await.status, 405);
}
