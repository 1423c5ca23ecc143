//! The rounds of a request whose answer is one JSON document: the model is asked, the gateway runs the calls that are its
//! own, and asks again. The caller sees the last answer, with the usage of all of them.

use std::time::Instant;

use bytes::Bytes;
use otari_filters::operations::Measured;
use otari_filters::rejection::Rejection;
use otari_filters::tools::{
    Answered, Marks, Step as Next, Tally, ToolCall, ToolResult, read_answer, write_answer,
};
use otari_filters::upstream::Failure;

use super::{Relay, join, pass_whole};
use crate::proxy::call::Stop;
use crate::proxy::exchange::{self, Answer, Failed, Step};
use crate::proxy::open::Ending;
use crate::proxy::tools::{self, Tools};

/// The longest answer that is looked into.
const MAX_ANSWER_BYTES: usize = 32 << 20;

pub(in crate::proxy::relay) async fn run(
    relay: &mut Relay<'_>,
    mut answer: Box<Answer>,
    tools: &Tools,
) -> Result<(), Stop> {
    let protocol = relay.call.asked.protocol();
    let (mut tally, mut marks) = (Tally::default(), Marks::default());
    for round in 1.. {
        let (document, answered) = match read(relay, &mut answer, tools).await {
            Ok(read) => read,
            Err(failed) => {
                relay.give_back(answer, false).await;
                return Err(fail(relay, failed));
            }
        };
        tally.add(answered.usage.as_ref());
        let calls = match &answered.step {
            Next::Done => &[],
            Next::Run(calls) | Next::Mixed(calls) => calls.as_slice(),
        };
        let goes_on = matches!(answered.step, Next::Run(_));
        if goes_on && let Err(refused) = tools.may_go_on(round) {
            relay.give_back(answer, true).await;
            return Err(refuse(relay, refused));
        }
        let results = match calls {
            [] => Vec::new(),
            calls => match run_calls(relay, tools, calls).await {
                Ok(results) => results,
                Err(failed) => {
                    relay.give_back(answer, true).await;
                    return Err(stop(relay, failed));
                }
            },
        };
        if tools.options.marks_search && !calls.is_empty() {
            marks.add(calls, &results);
        }
        if !goes_on {
            let written = write_answer(protocol, &document, &tools.owned, &tally, &marks);
            if let Err(refused) = tools.check_answer(relay.app, relay.ctx, &written).await {
                relay.give_back(answer, true).await;
                return Err(refuse(relay, refused));
            }
            return pass_whole(relay, answer, written).await;
        }
        relay.give_back(answer, true).await;
        let turn = &answered.turn;
        if let Err(refused) = tools::next_round(relay.app, relay.call, turn, &results).await {
            return Err(refuse(relay, refused));
        }
        answer = relay.ask().await?;
        if answer.is_stream {
            relay.give_back(answer, false).await;
            return Err(fail(relay, Failure::Malformed.into()));
        }
    }
    Err(Rejection::internal("a loop without an end").into())
}

/// The whole answer, and what it says.
async fn read(
    relay: &mut Relay<'_>,
    answer: &mut Answer,
    tools: &Tools,
) -> Result<(Bytes, Answered), Failed> {
    let (document, told) = whole(relay, answer).await?;
    relay.call.open.observe_whole(told, false);
    let answered = read_answer(relay.call.asked.protocol(), &document, &tools.owned);
    Ok((document, answered.ok_or(Failure::Malformed)?))
}

/// The document to its end, however long, and what it told.
async fn whole(relay: &mut Relay<'_>, answer: &mut Answer) -> Result<(Bytes, Measured), Failed> {
    let Relay { s, watch, .. } = relay;
    let mut pieces = std::mem::take(&mut answer.first);
    if let Some(told) = answer.whole {
        return Ok((join(&pieces), told));
    }
    let mut bytes: usize = pieces.iter().map(Bytes::len).sum();
    while !answer.up.response_done() {
        let until = Instant::now() + answer.idle_timeout;
        let piece = match watch.step(s, until, answer.up.read_response_body()).await {
            Step::Got(Ok(Some(piece))) => answer.incoming.read(piece)?,
            Step::Got(Ok(None)) => break,
            Step::Got(Err(_)) => return Err(Failure::Broken.into()),
            Step::Gone(error) => return Err(Failed::CallerGone(error)),
            Step::Stopped => return Err(exchange::stopped()),
            Step::Timeout if watch.is_over() => return Err(exchange::out_of_time()),
            Step::Timeout => return Err(Failure::IdleTimeout.into()),
        };
        bytes += piece.len();
        if bytes > MAX_ANSWER_BYTES {
            return Err(Failure::Malformed.into());
        }
        pieces.push(piece);
    }
    let document = join(&pieces);
    let told = answer.incoming.passed(Some(&document));
    Ok((document, told))
}

/// Runs calls. Here the caller may leave: nothing is lost that a provider would bill.
async fn run_calls(
    relay: &mut Relay<'_>,
    tools: &Tools,
    calls: &[ToolCall],
) -> Result<Vec<ToolResult>, Failed> {
    let Relay { app, s, watch, .. } = relay;
    watch.caller = true;
    let results = watch.own(s, tools.run(app, calls)).await;
    watch.caller = false;
    results
}

/// The loop ends here by the gateway's will: what was answered is paid.
fn refuse(relay: &mut Relay<'_>, refused: Rejection) -> Stop {
    let status = refused.code.status().as_u16();
    relay.call.open.end(&Ending::Cut { reason: refused.code.as_str(), status });
    refused.into()
}

/// The answer of a round is none: the rounds before it are paid.
fn fail(relay: &mut Relay<'_>, failed: Failed) -> Stop {
    let (reason, refused) = match failed {
        Failed::Attempt(failed) => failed.into_parts(),
        failed => return stop(relay, failed),
    };
    relay.ctx.outcome.error = Some(reason.clone().into_owned());
    let status = refused.code.status().as_u16();
    relay.call.open.end(&Ending::Failed { reason, status, class: None });
    relay.call.asked.worded(refused).into()
}

/// The caller left, or time is over.
fn stop(relay: &mut Relay<'_>, failed: Failed) -> Stop {
    let Relay { app, ctx, call, .. } = relay;
    match failed {
        Failed::CallerGone(error) => {
            app.metrics.stream_abort("caller");
            ctx.outcome.code = Some("client_disconnected");
            call.open.cancel();
            Stop::Broken(error)
        }
        Failed::Ended(reason, refused) => {
            let status = refused.code.status().as_u16();
            call.open.end(&Ending::Cut { reason, status });
            Stop::Refused(refused)
        }
        Failed::Attempt(failed) => failed.into_parts().1.into(),
    }
}
