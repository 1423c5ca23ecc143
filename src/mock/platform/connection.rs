//! One connection to a platform: request by request, each answered in one write unless its rule breaks it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::super::answer::put;
use super::super::emit::{Framing, KEEP_BYTES, Next, Outlet, drain};
use super::super::http::{Inbox, Trouble};
use super::State;
use super::answer::Answer;
use super::script::{Fault, bodyless};

/// How long a refused upload is still read, so that the refusal is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

/// Serves `stream` until either side ends it.
pub(super) async fn serve(mut stream: TcpStream, state: Arc<State>) {
    // A socket that refuses options is about to fail anyway.
    let _ = stream.set_nodelay(true);
    let (mut inbox, mut out) = (Inbox::new(), Vec::new());
    loop {
        match turn(&mut stream, &mut inbox, &mut out, &state).await {
            Ok(Next::Keep) => {}
            Ok(Next::Close) | Err(Trouble::Gone) => return,
            Err(Trouble::Refuse(status, message)) => {
                state.blame(format!("no HTTP request: {message}"));
                out.clear();
                let answer = Answer::detail(status, message);
                let mut outlet =
                    Outlet { stream: &stream, out: &mut out, keep_alive: false, modern: true };
                if write(&mut outlet, &answer).await.is_ok() && stream.shutdown().await.is_ok() {
                    drain(&stream, LINGER).await;
                }
                return;
            }
        }
    }
}

async fn turn(
    stream: &mut TcpStream,
    inbox: &mut Inbox,
    out: &mut Vec<u8>,
    state: &State,
) -> Result<Next, Trouble> {
    let Some(head) = inbox.head(stream).await? else { return Ok(Next::Close) };
    inbox.body(stream, &head).await?;
    let (answer, place) = state.hear(&inbox.request(&head));
    inbox.consume();
    out.clear();
    let mut outlet = Outlet { stream, out, keep_alive: head.keep_alive, modern: head.modern };
    let played = play(&mut outlet, &answer).await;
    if out.capacity() > KEEP_BYTES {
        *out = Vec::new();
    }
    if played.is_err()
        && let Some(place) = place
    {
        state.memory.abandoned(place);
    }
    Ok(played?)
}

async fn play(outlet: &mut Outlet<'_>, answer: &Answer) -> io::Result<Next> {
    outlet.pause(answer.delay).await?;
    match answer.fault {
        Some(Fault::Close) => Ok(Next::Close),
        Some(Fault::Reset) => outlet.reset().await,
        Some(Fault::Hang) => outlet.hold().await,
        Some(Fault::Half) => {
            head(outlet, answer);
            outlet.out.extend_from_slice(&answer.body[..answer.body.len() / 2]);
            outlet.flush().await?;
            Ok(Next::Close)
        }
        Some(Fault::Redirect) | None => write(outlet, answer).await,
    }
}

async fn write(outlet: &mut Outlet<'_>, answer: &Answer) -> io::Result<Next> {
    head(outlet, answer);
    outlet.out.extend_from_slice(&answer.body);
    outlet.flush().await?;
    Ok(outlet.next())
}

fn head(outlet: &mut Outlet<'_>, answer: &Answer) {
    if bodyless(answer.status) {
        let reason = if answer.status == 204 { "204 No Content" } else { "304 Not Modified" };
        put(outlet.out, &["HTTP/1.1 ", reason, "\r\n", &answer.extra]);
        if !outlet.keep_alive {
            put(outlet.out, &["connection: close\r\n"]);
        }
        put(outlet.out, &["\r\n"]);
        return;
    }
    // A type without a body does no harm, and some clients warn of its absence.
    let kind = if answer.kind.is_empty() { "application/json" } else { &answer.kind };
    outlet.head(answer.status, kind, &answer.extra, Framing::Length(answer.body.len()));
}
