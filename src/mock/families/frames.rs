//! AWS event streams, written: `application/vnd.amazon.eventstream`. A frame is its length, the length
//! of its headers, a checksum of both, headers, payload, and a checksum of everything before; numbers
//! are big-endian, checksums are CRC-32.

/// The two lengths and their checksum.
const PRELUDE: usize = 12;

/// The checksum at the end.
const CHECKSUM: usize = 4;

/// The type of a header whose value is text.
const TEXT: u8 = 7;

/// Appends a frame with these headers, names without their colon.
pub(super) fn frame(headers: &[(&str, &str)], payload: &[u8], out: &mut Vec<u8>) {
    let mut fields = Vec::new();
    for (name, value) in headers {
        fields.push(1 + name.len() as u8);
        fields.push(b':');
        fields.extend_from_slice(name.as_bytes());
        fields.push(TEXT);
        fields.extend_from_slice(&(value.len() as u16).to_be_bytes());
        fields.extend_from_slice(value.as_bytes());
    }
    raw(&fields, payload, out);
}

/// Appends an event whose payload is JSON.
pub(super) fn event(kind: &str, payload: &str, out: &mut Vec<u8>) {
    let headers =
        [("event-type", kind), ("content-type", "application/json"), ("message-type", "event")];
    frame(&headers, payload.as_bytes(), out);
}

/// Appends an exception, which ends a stream.
pub(super) fn exception(kind: &str, payload: &str, out: &mut Vec<u8>) {
    let headers = [
        ("exception-type", kind),
        ("content-type", "application/json"),
        ("message-type", "exception"),
    ];
    frame(&headers, payload.as_bytes(), out);
}

/// Appends `bytes` as SageMaker sends a container's answer: in parts that know nothing of its lines.
pub(super) fn parts(bytes: &[u8], out: &mut Vec<u8>) {
    let headers = [
        ("event-type", "PayloadPart"),
        ("content-type", "application/octet-stream"),
        ("message-type", "event"),
    ];
    for part in bytes.chunks(bytes.len().div_ceil(2).max(1)) {
        frame(&headers, part, out);
    }
}

/// Halves the payload of the first frame in `event`; its checksums are right.
pub(in crate::mock) fn halve(event: &mut Vec<u8>) {
    let Some((length, fields)) = lengths(event) else { return };
    let payload = length - CHECKSUM - PRELUDE - fields;
    let mut out = Vec::with_capacity(event.len());
    let start = PRELUDE + fields;
    raw(&event[PRELUDE..start], &event[start..start + payload / 2], &mut out);
    out.extend_from_slice(&event[length..]);
    *event = out;
}

/// Makes the checksum of the first frame in `event` wrong.
pub(in crate::mock) fn spoil(event: &mut [u8]) {
    if let Some((length, _)) = lengths(event) {
        event[length - 1] ^= 0xff;
    }
}

/// The length of the first frame, and that of its headers.
fn lengths(event: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize| Some(u32::from_be_bytes(*event.get(at..)?.first_chunk()?) as usize);
    let (length, fields) = (number(0)?, number(4)?);
    (length <= event.len() && PRELUDE + fields + CHECKSUM <= length).then_some((length, fields))
}

fn raw(fields: &[u8], payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let length = PRELUDE + fields.len() + payload.len() + CHECKSUM;
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(&(fields.len() as u32).to_be_bytes());
    let checksum = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&checksum.to_be_bytes());
    out.extend_from_slice(fields);
    out.extend_from_slice(payload);
    let checksum = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From the test vectors that AWS publishes with its SDKs.
    #[test]
    fn frames_are_those_of_awss_test_vectors() {
        let mut out = Vec::new();
        raw(b"", b"", &mut out);
        assert_eq!(hex(&out), "000000100000000005c248eb7d98c8ff");
        out.clear();
        raw(b"", b"{'foo':'bar'}", &mut out);
        assert_eq!(hex(&out), "0000001d00000000fd528c5a7b27666f6f273a27626172277dc3653936");
    }

    #[test]
    fn a_header_is_a_name_a_type_and_a_text() {
        let mut out = Vec::new();
        frame(&[("event-type", "x")], b"", &mut out);
        assert_eq!(&out[PRELUDE..out.len() - CHECKSUM], b"\x0b:event-type\x07\x00\x01x");
    }

    #[test]
    fn a_halved_frame_is_whole_and_a_spoiled_one_is_not() {
        let mut out = Vec::new();
        event("a", r#"{"x":1}"#, &mut out);
        let second = out.clone();
        out.extend_from_slice(&second);
        halve(&mut out);
        let (length, _) = lengths(&out).unwrap();
        assert_eq!(&out[length - CHECKSUM - 3..length - CHECKSUM], br#"{"x"#);
        let checksum = crc32fast::hash(&out[..length - CHECKSUM]).to_be_bytes();
        assert_eq!(&out[length - CHECKSUM..length], checksum);
        assert_eq!(&out[length..], second, "what follows is untouched");
        spoil(&mut out);
        assert_ne!(&out[length - CHECKSUM..length], checksum);
    }
}
