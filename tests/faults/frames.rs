//! Whether what a caller received is what a provider sent.

use crate::scene::{Api, Call};
use crate::upstream::{document, events};

/// Signs of life, which the gateway may put between events.
const SIGNS: [&str; 2] = [": keepalive\n\n", "event: ping\ndata: {\"type\": \"ping\"}\n\n"];

/// The provider whose whole answer this is. `connected`: with what the platform says it cost in it.
pub(crate) fn whole(call: &Call, body: &[u8], connected: bool) -> Option<usize> {
    let text = plain(call, body, connected)?;
    (0..2).find(|place| sent(call, *place) == text)
}

/// All that a provider sends.
fn sent(call: &Call, place: usize) -> String {
    if call.streams {
        events(call.api, call, place).concat()
    } else {
        document(call.api, call, place)
    }
}

/// Without signs of life and costs.
fn plain(call: &Call, body: &[u8], connected: bool) -> Option<String> {
    let mut text = String::from_utf8(body.to_vec()).ok()?;
    if call.streams {
        let signs = SIGNS.iter().filter(|sign| text.contains(**sign)).collect::<Vec<_>>();
        for sign in signs {
            text = text.replace(sign, "");
        }
    }
    while connected && let Some(at) = text.find(",\"cost_usd\":") {
        let end = at + text[at..].find('}')?;
        text.replace_range(at..end, "");
    }
    Some(text)
}

/// Checks an answer with status 200. `ended`: its framing says that this is all.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn look(call: &Call, body: &[u8], ended: bool, connected: bool) -> Result<(), String> {
    let text = plain(call, body, connected).ok_or("not a text")?;
    if ended && !call.streams {
        let fits = (0..2).any(|place| sent(call, place) == text);
        return fits.then_some(()).ok_or_else(|| "not what a provider sent".into());
    }
    let (common, rest) = (0..2)
        .map(|place| {
            let sent = sent(call, place);
            let common = sent.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
            (common, sent.len() == common)
        })
        .max()
        .map(|(common, is_all)| (is_all, &text[common..]))
        .ok_or("nothing")?;
    match (ended, common, rest) {
        (_, true, "") => Ok(()),
        (false, _, rest)
            if rest.is_empty() || is_sign_begun(rest) || is_error(call, rest, false) =>
        {
            Ok(())
        }
        (true, false, rest) if is_error(call, rest, true) => Ok(()),
        (true, ..) => Err("ends without its end or an error".into()),
        (false, ..) => Err("not the beginning of what a provider sent".into()),
    }
}

/// The beginning of a sign of life, or of what the cost stands in.
fn is_sign_begun(rest: &str) -> bool {
    SIGNS.iter().any(|sign| sign.starts_with(rest))
        || ",\"cost_usd\":".starts_with(rest)
        || rest.starts_with(",\"cost_usd\":")
}

/// An error in the caller's dialect, which ends what has begun; `is_whole`: all of it.
fn is_error(call: &Call, rest: &str, is_whole: bool) -> bool {
    // What a provider sends and an error event begin alike: `data: {"`, `event: `.
    let Some(at) = rest.find("error") else { return !is_whole && rest.len() < 20 };
    let text = &rest[at..];
    let ends = match call.api {
        Api::Chat => text.ends_with("data: [DONE]\n\n"),
        Api::Messages => text.ends_with("}\n\n"),
    };
    (ends || !is_whole) && !rest.contains("\"content\"") && rest.len() < 1000
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn call(streams: bool) -> Call {
        Call {
            name: "c1".into(),
            user: 0,
            api: Api::Chat,
            streams,
            gateway: 0,
            at: Duration::ZERO,
            leaves_after: None,
            pieces: 3,
            pace: Duration::ZERO,
        }
    }

    #[test]
    fn what_a_provider_sent_is_known_and_nothing_else() {
        let streamed = call(true);
        let sent = sent(&streamed, 1);
        assert_eq!(whole(&streamed, sent.as_bytes(), false), Some(1));
        let alive = sent.replacen("\n\n", "\n\n: keepalive\n\n", 2);
        assert_eq!(whole(&streamed, alive.as_bytes(), false), Some(1));
        look(&streamed, alive.as_bytes(), true, false).unwrap();

        let half = &sent[..200];
        assert_eq!(whole(&streamed, half.as_bytes(), false), None);
        look(&streamed, half.as_bytes(), false, false).unwrap();
        look(&streamed, half.as_bytes(), true, false).unwrap_err();
        let error =
            format!("{half}\n\ndata: {{\"error\":{{\"message\":\"no\"}}}}\n\ndata: [DONE]\n\n");
        look(&streamed, error.as_bytes(), true, false).unwrap();

        let mixed = sent.replacen("c1/1/2", "c1/0/2", 1);
        look(&streamed, mixed.as_bytes(), true, false).unwrap_err();
        look(&streamed, mixed.as_bytes(), false, false).unwrap_err();
        let twice = format!("{sent}{sent}");
        look(&streamed, twice.as_bytes(), true, false).unwrap_err();
    }

    #[test]
    fn a_cost_is_no_part_of_what_was_sent() {
        let plain = document(Api::Chat, &call(false), 0);
        let end = plain.rfind("}}").unwrap();
        let priced = format!(
            "{},\"cost_usd\":\"0.1\",\"pricing_source\":\"managed\"{}",
            &plain[..end],
            &plain[end..]
        );
        assert_eq!(whole(&call(false), priced.as_bytes(), true), Some(0));
        look(&call(false), priced.as_bytes(), true, false).unwrap_err();
    }
}
