//! The official test vectors, and what Bedrock asks for beyond them.

use bytes::Bytes;

use super::*;

const HOST: &str = "example.amazonaws.com";
/// 2015-08-30T12:36:00Z, the time of AWS's test suite.
const THEN: u64 = 1_440_938_160;
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn keys(token: Option<&str>) -> AwsKeys {
    AwsKeys {
        access_key_id: Secret::new("AKIDEXAMPLE"),
        secret_access_key: Secret::new(SECRET),
        session_token: token.map(Secret::new),
    }
}

fn request<'a>(method: &'a str, path: &'a str) -> Signable<'a> {
    Signable {
        region: "us-east-1",
        service: "service",
        method,
        host: HOST,
        path_and_query: path,
        headers: &[],
        body: &[],
    }
}

/// The names of the signed headers, and the signature.
fn signed(keys: &AwsKeys, request: &Signable<'_>) -> (String, String) {
    let headers = sign(keys, request, THEN).unwrap();
    let find = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    assert_eq!(find("x-amz-date").unwrap(), "20150830T123600Z");
    let token = keys.session_token.as_ref().map(Secret::expose);
    assert_eq!(find("x-amz-security-token").map(|token| token.to_str().unwrap()), token);
    let value = find("authorization").unwrap();
    assert!(value.is_sensitive());
    let head = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/{}/{}/aws4_request, SignedHeaders=",
        request.region, request.service
    );
    let rest = value.to_str().unwrap().strip_prefix(&head).unwrap();
    let (names, signature) = rest.split_once(", Signature=").unwrap();
    (names.to_owned(), signature.to_owned())
}

#[test]
fn requests_are_signed_as_in_the_official_test_suite() {
    let plain = keys(None);
    for (method, path, want) in [
        ("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "POST",
            "/?Param1=value1",
            "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
        ),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "GET",
            "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
    ] {
        let (names, signature) = signed(&plain, &request(method, path));
        assert_eq!((&*names, &*signature), ("host;x-amz-date", want), "{method} {path}");
    }
    let token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
    assert_eq!(
        signed(&keys(Some(token)), &request("GET", "/")),
        (
            "host;x-amz-date;x-amz-security-token".to_owned(),
            "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8".to_owned()
        )
    );
}

#[test]
fn a_body_in_pieces_and_its_headers_are_signed() {
    let body = [Bytes::from_static(b"Param1="), Bytes::new(), Bytes::from_static(b"value1")];
    let form = Signable {
        headers: &[
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Length", "13"),
            (
                "x-amz-content-sha256",
                "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e",
            ),
        ],
        body: &body,
        ..request("POST", "/")
    };
    let (names, signature) = signed(&keys(None), &form);
    assert_eq!(names, "content-length;content-type;host;x-amz-content-sha256;x-amz-date");
    assert_eq!(signature, "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b");
}

#[test]
fn the_path_of_a_model_is_encoded_a_second_time() {
    let model = "arn:aws:bedrock:us-west-2:1:inference-profile/us.anthropic.claude-v1:0";
    let segment = model_segment(model);
    assert_eq!(
        segment,
        "arn%3Aaws%3Abedrock%3Aus-west-2%3A1%3Ainference-profile%2Fus.anthropic.claude-v1%3A0"
    );
    let path = format!("/model/{segment}/converse-stream");
    let host = "bedrock-runtime.us-west-2.amazonaws.com";
    let body = [Bytes::from_static(b"{}")];
    let call = Signable {
        region: "us-west-2",
        service: "bedrock",
        host,
        body: &body,
        ..request("POST", &path)
    };
    let (_, signature) = signed(&keys(None), &call);
    let canonical = format!(
        "POST\n/model/{}/converse-stream\n\nhost:{host}\nx-amz-date:20150830T123600Z\n\nhost;x-amz-date\n\
         44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        segment.replace('%', "%25")
    );
    assert!(canonical.contains("v1%253A0/converse-stream"));
    let hash = digest(&[Bytes::from(canonical)]);
    let text = format!(
        "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-west-2/bedrock/aws4_request\n{hash}"
    );
    let time = UNIX_EPOCH + Duration::from_secs(THEN);
    let key = v4::generate_signing_key(SECRET, time, "us-west-2", "bedrock");
    assert_eq!(signature, v4::calculate_signature(key, text.as_bytes()));
}

#[test]
fn what_a_caller_names_stays_one_segment() {
    for (model, want) in [
        ("anthropic.claude-3:0", "anthropic.claude-3%3A0"),
        ("..", "%2E%2E"),
        ("../x?y#z", "..%2Fx%3Fy%23z"),
        ("a b\r\n%é", "a%20b%0D%0A%25%C3%A9"),
    ] {
        assert_eq!(model_segment(model), want);
    }
}

#[test]
fn what_cannot_be_signed_is_an_error_without_secrets() {
    let refused = |keys: &AwsKeys, request: &Signable<'_>, now| {
        let error = sign(keys, request, now).unwrap_err().to_string();
        assert!(!error.contains("AKID") && !error.contains("wJalr"), "{error}");
    };
    let plain = keys(None);
    refused(&plain, &request("GET", "model"), THEN);
    refused(&plain, &request("GET", "/a b"), THEN);
    refused(&plain, &request("GET", "/"), u64::MAX);
    refused(&plain, &Signable { host: "", ..request("GET", "/") }, THEN);
    refused(&plain, &Signable { host: "a\nb", ..request("GET", "/") }, THEN);
    refused(&plain, &Signable { headers: &[("a b", "c")], ..request("GET", "/") }, THEN);
    refused(&plain, &Signable { headers: &[("a", "\0")], ..request("GET", "/") }, THEN);
    refused(&keys(Some("a\nb")), &request("GET", "/"), THEN);
    let odd = AwsKeys { access_key_id: Secret::new("AKID\r\n"), ..keys(None) };
    refused(&odd, &request("GET", "/"), THEN);
    assert!(!format!("{plain:?}").contains("AKID"));
}
