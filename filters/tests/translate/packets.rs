//! Binary event streams, made from a readable text.
//!
//! Each line is `<type><tab><payload>`. A payload that is a JSON string stands for the bytes of its text, anything else
//! for itself. The type `exception/<name>` is a failure, and `error/<code>` another, with the payload as its message.

/// The stream that `text` describes.
pub(crate) fn stream(text: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let tab = line.iter().position(|byte| *byte == b'\t').unwrap_or(line.len());
        let kind = String::from_utf8_lossy(&line[..tab.min(99)]).into_owned();
        let payload = &line[(tab + 1).min(line.len())..];
        let bytes = serde_json::from_slice::<String>(payload).map(String::into_bytes);
        let bytes = bytes.unwrap_or_else(|_| payload.to_vec());
        if let Some(name) = kind.strip_prefix("exception/") {
            let headers = [(":message-type", "exception"), (":exception-type", name)];
            packet(&mut stream, &headers, &bytes);
        } else if let Some(code) = kind.strip_prefix("error/") {
            let message = String::from_utf8_lossy(&bytes);
            let headers =
                [(":message-type", "error"), (":error-code", code), (":error-message", &message)];
            packet(&mut stream, &headers, b"");
        } else {
            let headers = [
                (":event-type", &*kind),
                (":content-type", "application/json"),
                (":message-type", "event"),
            ];
            packet(&mut stream, &headers, &bytes);
        }
    }
    stream
}

/// Writes one message.
pub(crate) fn packet(out: &mut Vec<u8>, headers: &[(&str, &str)], payload: &[u8]) {
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(u8::try_from(name.len()).expect("a short name"));
        head.extend_from_slice(name.as_bytes());
        head.push(7);
        head.extend_from_slice(&u16::try_from(value.len()).expect("a short value").to_be_bytes());
        head.extend_from_slice(value.as_bytes());
    }
    let from = out.len();
    let length = |length: usize| u32::try_from(length).expect("a short message").to_be_bytes();
    out.extend_from_slice(&length(head.len() + payload.len() + 16));
    out.extend_from_slice(&length(head.len()));
    let sum = crc32fast::hash(&out[from..]);
    out.extend_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    let sum = crc32fast::hash(&out[from..]);
    out.extend_from_slice(&sum.to_be_bytes());
}
