//! What a form asks, and what a provider gets of it.

use bytes::Bytes;

use super::super::{Content, Form, Frame, Kind, Part, Payload, Units};
use super::{faults, upstream};

fn text(name: &str, text: &'static str) -> Part {
    let holds = Content::Text(Bytes::from_static(text.as_bytes()));
    Part { name: name.to_owned(), content_type: None, holds }
}

fn file(name: &str, kind: Option<&str>) -> Part {
    Part {
        name: "file".to_owned(),
        content_type: kind.map(str::to_owned),
        holds: Content::File(name.to_owned()),
    }
}

fn form(parts: impl IntoIterator<Item = Part>) -> Form {
    let mut form = Form::default();
    parts.into_iter().for_each(|part| form.push(part).unwrap());
    form
}

#[test]
fn faults_of_a_form_are_listed() {
    for (parts, want) in [
        (vec![], &["missing body.file", "missing body.model"][..]),
        (
            vec![text("file", "x"), text("model", "")],
            &["value_error body.file", "missing body.model"],
        ),
        (
            vec![
                file("a.wav", None),
                text("model", "m"),
                text("temperature", "hot"),
                text("stream", "x"),
            ],
            &["float_parsing body.temperature", "bool_parsing body.stream"],
        ),
    ] {
        let refused = form(parts).read().unwrap_err();
        assert_eq!(faults(&refused), want);
    }
    let asked = form([
        text("model", "p:m"),
        text("temperature", " 0.5"),
        text("user", "u"),
        text("stream", "true"),
        file("a.wav", None),
    ]);
    let asked = asked.read().unwrap();
    assert_eq!((&*asked.model, asked.user.as_deref(), asked.stream), ("p:m", Some("u"), true));
    assert_eq!((asked.kind, asked.units), (Kind::Transcription, Units::Call));
}

#[test]
fn a_form_is_bounded() {
    let mut form = Form::default();
    form.push(file("a", None)).unwrap();
    let wrong = |form: &mut Form, part| form.push(part).unwrap_err().message.into_owned();
    assert!(wrong(&mut form, file("b", None)).contains("more than one file"));
    let other = Part { name: "other".into(), ..file("b", None) };
    assert!(wrong(&mut form, other).contains("only the field 'file'"));
    let long = Content::Text(vec![b'x'; super::super::MAX_TEXT_BYTES].into());
    assert!(
        wrong(&mut form, Part { name: "prompt".into(), content_type: None, holds: long })
            .contains("1 MB")
    );
    let mut form = Form::default();
    for _ in 0..super::super::MAX_PARTS {
        form.push(text("a", "")).unwrap();
    }
    assert!(wrong(&mut form, text("a", "")).contains("128"));
}

#[test]
fn a_form_is_written_around_its_file() {
    let form = form([
        text("language", "en"),
        file("häß \"x\"\r\n.m4a", Some("audio/mp4")),
        text("model", "openai:whisper-1"),
        text("timestamp_granularities[]", "word"),
        text("timestamp_granularities[]", "segment"),
        text("chunking_strategy", "auto"),
        text("user", "u"),
        text("api_base", "http://evil"),
        Part { content_type: Some("bad\r\nX: y".to_owned()), ..text("prompt", "a\r\nb") },
    ]);
    let asked = form.read().unwrap();
    let sent = upstream("openai", None, &[]).transcription(&asked, "whisper-1", 0xAB, 38).unwrap();
    assert_eq!(sent.path.as_str(), "/v1/audio/transcriptions");
    assert!(sent.inbound.is_unread() && !sent.inbound.needs_whole());
    let Payload::Form(frame) = sent.body else { panic!("no form") };
    let boundary = "------000000000000000000000000000000ab";
    assert_eq!(frame.content_type(), format!("multipart/form-data; boundary={boundary}"));
    let (head, tail) = (frame.head(&form), frame.tail(&form));
    let part = |rest: &str| format!("--{boundary}\r\nContent-Disposition: form-data; {rest}");
    assert_eq!(
        head,
        part("name=\"language\"\r\n\r\nen\r\n")
            + &part(
                "name=\"file\"; filename=\"häß %22x%22%0D%0A.m4a\"\r\nContent-Type: audio/mp4\r\n\r\n"
            )
    );
    let tail = String::from_utf8(tail.to_vec()).unwrap();
    let want = [
        "\r\n".to_owned(),
        part("name=\"model\"\r\n\r\nwhisper-1\r\n"),
        part("name=\"timestamp_granularities[]\"\r\n\r\nword\r\n"),
        part("name=\"timestamp_granularities[]\"\r\n\r\nsegment\r\n"),
        part("name=\"chunking_strategy\"\r\n\r\nauto\r\n"),
        part("name=\"prompt\"\r\n\r\na\r\nb\r\n"),
        format!("--{boundary}--\r\n"),
    ];
    assert_eq!(tail, want.concat());
}

#[test]
fn the_first_half_of_a_form_does_not_wait_for_the_second() {
    let whole =
        [text("model", "p:m"), text("user", "u"), file("a.wav", None), text("language", "en")];
    let begun = form(whole[..3].to_vec());
    let frame = Frame::new("m", u128::MAX, 32);
    let (whole, head) = (form(whole), frame.head(&begun));
    assert_eq!(head, frame.head(&whole));
    assert!(
        head.ends_with(b"filename=\"a.wav\"\r\nContent-Type: application/octet-stream\r\n\r\n")
    );
    let end = format!("--{}--\r\n", "f".repeat(32));
    assert_eq!(frame.tail(&begun), format!("\r\n{end}"));
    assert!(
        String::from_utf8_lossy(&frame.tail(&whole)).ends_with(&format!("\r\n\r\nen\r\n{end}"))
    );
}

#[test]
fn a_boundary_is_as_long_as_the_callers_and_nobody_guesses_it() {
    for (like, length) in [(1, 24), (24, 24), (31, 31), (32, 32), (38, 38), (70, 70), (500, 70)] {
        let kind = Frame::new("m", 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef, like).content_type();
        let (_, boundary) = kind.to_str().unwrap().split_once("boundary=").unwrap();
        assert_eq!(boundary.len(), length, "{like}");
        assert!(boundary.trim_start_matches('-').len() >= 24.min(length), "{boundary}");
        assert!(boundary.ends_with("89abcdef0123456789abcdef"), "{boundary}");
    }
}
