//! Speaks SageMaker: OpenAI's chat in a container, its stream cut into the parts of an AWS event stream
//! without regard to lines.

use serde_json::json;

use super::frames;
use crate::mock::answer::Answer;
use crate::mock::chat;

/// Appends what `write` appends, in parts.
fn parts(write: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    let mut plain = Vec::new();
    write(&mut plain);
    frames::parts(&plain, out);
}

/// Appends what precedes the first chunk.
pub(in crate::mock) fn open(answer: &Answer, out: &mut Vec<u8>) {
    parts(|plain| chat::open(answer, plain), out);
}

/// Appends chunk `index`.
pub(in crate::mock) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    parts(|plain| chat::delta(answer, index, plain), out);
}

/// Appends the finish and, when asked for, the usage chunk.
pub(in crate::mock) fn close(answer: &Answer, out: &mut Vec<u8>) {
    parts(|plain| chat::close(answer, plain), out);
}

/// Appends the stream's last event.
pub(in crate::mock) fn done(out: &mut Vec<u8>) {
    parts(|plain| plain.extend_from_slice(chat::DONE.as_bytes()), out);
}

/// Appends an error in the middle of a stream.
pub(in crate::mock) fn failure(out: &mut Vec<u8>) {
    let payload =
        json!({"ErrorCode": "ModelInvocationError", "Message": "mock: the stream failed as asked"});
    frames::exception("ModelStreamError", &payload.to_string(), out);
}

/// The header lines of an error answer.
pub(in crate::mock) fn error_fields(status: u16) -> &'static str {
    match status {
        400 | 403 | 404 | 413 => "x-amzn-errortype: ValidationError\r\n",
        424 => "x-amzn-errortype: ModelError\r\n",
        429 => "x-amzn-errortype: ThrottlingException\r\n",
        503 => "x-amzn-errortype: ServiceUnavailable\r\n",
        _ => "x-amzn-errortype: InternalFailure\r\n",
    }
}

/// The body of an error answer.
pub(in crate::mock) fn error(message: &str) -> Vec<u8> {
    json!({"Message": message}).to_string().into_bytes()
}
