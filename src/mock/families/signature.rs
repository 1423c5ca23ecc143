//! Looks at AWS signatures, version 4. Those of AWS's own example key are computed again, by hand and
//! from the raw request, so that a signer which encodes a path once too seldom is noticed; those of other
//! keys only need the right form.

use sha2::{Digest as _, Sha256};

use super::access::header;
use crate::mock::http::{Request, field, lines};

/// The key that AWS's documents sign their examples with, and its published secret.
const EXAMPLE_KEY: &str = "AKIDEXAMPLE";
const EXAMPLE_SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// Bytes of SHA-256's block, which is what HMAC pads to.
const BLOCK: usize = 64;

/// Looks whether `request` is signed for `service`.
///
/// # Errors
/// What is wrong with the signature.
pub(super) fn check(request: &Request<'_>, service: &str) -> Result<(), String> {
    let value = header(request, "authorization").unwrap_or_default();
    let rest = value.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("the call is not signed")?;
    let part = |name: &str| {
        let found = rest.split(',').find_map(|part| part.trim().strip_prefix(name));
        found.and_then(|part| part.strip_prefix('=')).ok_or(format!("the signature lacks {name}"))
    };
    let (credential, signed, signature) =
        (part("Credential")?, part("SignedHeaders")?, part("Signature")?);
    let (key, scope) = credential.split_once('/').ok_or("Credential has no scope")?;
    let parts: Vec<&str> = scope.split('/').collect();
    let [date, region, of, "aws4_request"] = parts[..] else {
        return Err(format!("'{scope}' is no scope"));
    };
    let time = header(request, "x-amz-date").ok_or("x-amz-date is missing")?;
    if time.len() != 16 || !time.ends_with('Z') || !time.starts_with(date) {
        return Err(format!("x-amz-date '{time}' does not fit the scope '{scope}'"));
    }
    if of != service || region.is_empty() || key.is_empty() {
        return Err(format!("credential should be scoped to correct service: '{service}'"));
    }
    let names: Vec<&str> = signed.split(';').collect();
    if !names.contains(&"host") || !names.contains(&"x-amz-date") || !names.is_sorted() {
        return Err(format!("SignedHeaders '{signed}' must be sorted, with host and x-amz-date"));
    }
    if signature.len() != 64 || !signature.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("Signature is not 64 hexadecimal digits".into());
    }
    if key != EXAMPLE_KEY || signature == sign(request, &names, scope, time) {
        return Ok(());
    }
    Err("the request signature we calculated does not match the signature you provided".into())
}

/// The signature that the example key gives to `request`.
fn sign(request: &Request<'_>, names: &[&str], scope: &str, time: &str) -> String {
    let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
    let mut pairs: Vec<String> = query.split('&').filter(|p| !p.is_empty()).map(pair).collect();
    pairs.sort_unstable();
    let mut canonical = [request.method, &encoded_again(path), &pairs.join("&"), ""].join("\n");
    for name in names {
        let of_name = lines(request.fields)
            .filter_map(field)
            .filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
        let values: Vec<String> = of_name
            .map(|(_, value)| {
                let value = String::from_utf8_lossy(value);
                value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
            })
            .collect();
        canonical.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    canonical.push_str(&format!("\n{}\n{}", names.join(";"), hex(&Sha256::digest(request.body))));
    let hash = hex(&Sha256::digest(canonical));
    let text = ["AWS4-HMAC-SHA256", time, scope, &hash].join("\n");
    let secret = format!("AWS4{EXAMPLE_SECRET}").into_bytes();
    let key = scope.split('/').fold(secret, |key, part| hmac(&key, part.as_bytes()));
    hex(&hmac(&key, text.as_bytes()))
}

/// An option of the query with its `=`.
fn pair(option: &str) -> String {
    if option.contains('=') { option.to_owned() } else { format!("{option}=") }
}

/// A path as it stands on the wire, encoded once more: every service but S3 signs that.
fn encoded_again(path: &str) -> String {
    path.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(text).finalize();
    let outer = Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner);
    outer.finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: &str = "20150830/us-east-1/service/aws4_request";

    fn request<'a>(target: &'a str, fields: &'a [u8]) -> Request<'a> {
        Request { method: "GET", target, fields, body: b"", anthropic: false }
    }

    /// `get-vanilla` of AWS's signature test suite.
    #[test]
    fn a_signature_is_that_of_awss_test_suite() {
        let fields = b"Host:example.amazonaws.com\r\nX-Amz-Date:20150830T123600Z\r\n";
        let signature =
            sign(&request("/", fields), &["host", "x-amz-date"], SCOPE, "20150830T123600Z");
        assert_eq!(signature, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
    }

    #[test]
    fn the_form_is_looked_at_and_the_example_keys_signature_too() {
        let check = |key: &str, signature: &str, service: &str| {
            let fields = format!(
                "host: example.amazonaws.com\r\nx-amz-date: 20150830T123600Z\r\nauthorization: \
                 AWS4-HMAC-SHA256 Credential={key}/{SCOPE}, SignedHeaders=host;x-amz-date, \
                 Signature={signature}\r\n"
            );
            super::check(&request("/", fields.as_bytes()), service)
        };
        let right = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        assert_eq!(check(EXAMPLE_KEY, right, "service"), Ok(()));
        assert!(check(EXAMPLE_KEY, &"0".repeat(64), "service").is_err());
        assert_eq!(check("AKIDOTHER", &"0".repeat(64), "service"), Ok(()));
        assert!(check("AKIDOTHER", "0", "service").is_err());
        assert!(check(EXAMPLE_KEY, right, "bedrock").unwrap_err().contains("bedrock"));
        assert!(super::check(&request("/", b""), "service").is_err());
    }

    #[test]
    fn a_path_is_encoded_twice() {
        assert_eq!(encoded_again("/model/a%3A1/converse"), "/model/a%253A1/converse");
    }
}
