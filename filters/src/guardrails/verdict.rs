//! What a check says, what becomes of the request, and how the caller is told.

use serde_json::{Value, json};

use super::{Guardrail, Mode};
use crate::rejection::{Code, Rejection};

/// What a check says of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Whether the text passes; `None`: the check has no opinion, or could not be made. It passes then.
    pub valid: Option<bool>,
    /// Why, in whatever form the check says it; for the caller whose request is refused.
    pub explanation: Value,
    /// How sure it is, in whatever form.
    pub score: Value,
}

/// A check that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Which.
    pub profile: String,
    /// Whether it blocks.
    pub mode: Mode,
    /// What it says.
    pub verdict: Verdict,
}

impl Guardrail {
    /// The check has been made.
    pub fn judged(&self, verdict: Verdict) -> Judged {
        Judged { profile: self.profile.clone(), mode: self.mode, verdict }
    }

    /// The check could not be made: recorded without an opinion, unless it must not be passed over.
    ///
    /// # Errors
    /// `refusal`, where the mode is to block and nothing says otherwise.
    pub fn not_judged(&self, refusal: Rejection) -> Result<Judged, Rejection> {
        match (self.mode, self.on_unavailable) {
            (Mode::Block, Mode::Block) => Err(refusal),
            _ => Ok(self.judged(Verdict::default())),
        }
    }
}

/// Refuses what a blocking check refuses; every check has been made before.
///
/// # Errors
/// `guardrail_violation`, whose `detail` lists those checks, in one shape for every format.
pub fn judge(judged: &[Judged]) -> Result<(), Rejection> {
    let hits: Vec<Value> = judged
        .iter()
        .filter(|one| one.mode == Mode::Block && one.verdict.valid == Some(false))
        .map(|Judged { profile, verdict: Verdict { explanation, score, .. }, .. }| {
            json!({"profile": profile, "explanation": explanation, "score": score})
        })
        .collect();
    if hits.is_empty() {
        return Ok(());
    }
    let message = "Request blocked by guardrail policy.";
    let detail =
        json!({"message": message, "code": Code::GuardrailViolation.as_str(), "guardrails": hits});
    Err(Rejection { detail: Some(detail), ..Rejection::new(Code::GuardrailViolation, message) })
}

/// The value of `X-Otari-Guardrails`: a JSON list without explanations, in ASCII. Nothing when no check was made.
pub fn header(judged: &[Judged]) -> Option<String> {
    if judged.is_empty() {
        return None;
    }
    let list: Value = judged
        .iter()
        .map(|Judged { profile, mode, verdict: Verdict { valid, score, .. } }| {
            json!({"profile": profile, "mode": mode.as_str(), "valid": valid, "score": score})
        })
        .collect();
    let mut ascii = String::new();
    for char in list.to_string().chars() {
        if char.is_ascii() && char != '\u{7f}' {
            ascii.push(char);
        } else {
            let mut units = [0; 2];
            for unit in char.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    Some(ascii)
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::protocol::Protocol;

    fn guardrail(mode: Mode, on_unavailable: Mode) -> Guardrail {
        Guardrail {
            profile: "pi".into(),
            url: None,
            on_input: true,
            on_output: false,
            mode,
            on_unavailable,
            validate_kwargs: Map::new(),
        }
    }

    fn said(valid: impl Into<Option<bool>>) -> Verdict {
        Verdict { valid: valid.into(), explanation: "it says".into(), score: json!(0.9) }
    }

    #[test]
    fn only_a_blocking_check_that_refuses_blocks() {
        let block = guardrail(Mode::Block, Mode::Block);
        let monitor = guardrail(Mode::Monitor, Mode::Block);
        let passed =
            [block.judged(said(true)), block.judged(said(None)), monitor.judged(said(false))];
        assert!(judge(&passed).is_ok());
        let mut hit = passed.to_vec();
        hit.push(block.judged(said(false)));
        let refused = judge(&hit).unwrap_err();
        for protocol in [Protocol::Chat, Protocol::Messages, Protocol::Responses] {
            let body: Value = serde_json::from_slice(&refused.body(protocol, "r")).unwrap();
            assert_eq!(
                body["detail"],
                json!({"message": "Request blocked by guardrail policy.", "code": "guardrail_violation",
                    "guardrails": [{"profile": "pi", "explanation": "it says", "score": 0.9}]})
            );
        }
        assert_eq!(refused.code.status().as_u16(), 403);
    }

    #[test]
    fn a_check_that_fails_blocks_where_both_modes_say_so() {
        let refusal = || Rejection::new(Code::GuardrailUnavailable, "no");
        for (mode, on_unavailable, blocks) in [
            (Mode::Block, Mode::Block, true),
            (Mode::Block, Mode::Monitor, false),
            (Mode::Monitor, Mode::Block, false),
        ] {
            let result = guardrail(mode, on_unavailable).not_judged(refusal());
            assert_eq!(result.is_err(), blocks);
            if let Ok(judged) = result {
                assert_eq!(judged.verdict.valid, None);
            }
        }
    }

    #[test]
    fn the_header_is_compact_and_ascii() {
        let mut one = guardrail(Mode::Monitor, Mode::Block).judged(said(false));
        let list = r#"[{"profile":"pi","mode":"monitor","valid":false,"score":0.9}]"#;
        assert_eq!(header(std::slice::from_ref(&one)).unwrap(), list);
        one.profile = "é😀\n".into();
        let text = header(&[one]).unwrap();
        assert!(text.contains(r#""\u00e9\ud83d\ude00\n""#) && text.is_ascii(), "{text}");
        assert_eq!(header(&[]), None);
    }
}
