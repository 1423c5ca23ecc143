//! The bytes of what stands in a request, and what kind of bytes they are.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use otari_filters::attachments::Data;

use crate::documents;

/// Some clients leave the padding out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of `data`, in the body that it was found in; `None` where they are none.
pub(super) fn decode(data: &Data, body: &[u8]) -> Option<Vec<u8>> {
    let payload = data.payload(body)?;
    if !data.is_base64 {
        return percent_decoded(payload.as_bytes());
    }
    let is_blank = |c: char| c.is_ascii_whitespace();
    let payload: Cow<'_, str> = if payload.contains(is_blank) {
        Cow::Owned(payload.chars().filter(|c| !is_blank(*c)).collect())
    } else {
        payload
    };
    LENIENT.decode(payload.as_bytes()).ok()
}

fn percent_decoded(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    while let Some((byte, rest)) = text.split_first() {
        text = rest;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let (digits, rest) = text.split_at_checked(2)?;
        out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        text = rest;
    }
    Some(out)
}

/// A media type that says something: of what was stored without one, the first bytes may tell.
pub(super) fn mime<'m>(said: &'m str, bytes: &[u8]) -> &'m str {
    if !said.is_empty() && said != "application/octet-stream" {
        return said;
    }
    documents::image_mime(bytes).unwrap_or("application/octet-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_read() {
        assert_eq!(percent_decoded(b"a%20b%C3%A9").unwrap(), "a b\u{e9}".as_bytes());
        assert_eq!(percent_decoded(b"a+b").unwrap(), b"a+b");
        assert_eq!((percent_decoded(b"%2"), percent_decoded(b"%zz")), (None, None));
    }
}
