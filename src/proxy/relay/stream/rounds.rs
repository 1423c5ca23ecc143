//! The rounds of a request whose answer is a stream: text passes as it comes, the gateway's own calls are held back and
//! run, and the next round goes on in the same stream. What ends it is written once, behind the last round's record.

use bytes::Bytes;
use otari_filters::guardrails::OutputText;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::tools::{self, Loop, Step as Next, ToolCall, ToolResult};
use pingora_proxy::Session;

use super::{End, Passing, begin, finish, let_go, observe, ours, settle, take_in, wait, write};
use crate::proxy::call::Stop;
use crate::proxy::exchange::Answer;
use crate::proxy::open::Ending;
use crate::proxy::relay::Relay;
use crate::proxy::tools::{Tools, next_round};

/// The longest answer that is held back until it has been checked.
const MAX_HELD_BYTES: usize = 16 << 20;

/// What stands between the providers' streams and the caller's.
struct Course<'a> {
    tools: &'a Tools,
    looped: Loop,
    stream: Passing,
    /// What is said, where it is to be checked.
    said: Option<OutputText>,
    /// What must not be seen before it has been checked.
    held: Option<Vec<Bytes>>,
    held_bytes: usize,
    /// The end of the round's body has come.
    is_framed: bool,
}

pub(in crate::proxy::relay) async fn run(
    relay: &mut Relay<'_>,
    answer: Box<Answer>,
    tools: &Tools,
) -> Result<(), Stop> {
    let head = super::super::header(&answer, relay.ctx, relay.call, None);
    let protocol = relay.call.asked.protocol();
    let mut course = Course {
        tools,
        looped: Loop::new(protocol, tools.owned.clone(), tools.options),
        // The loop itself shows the usage, or hides it.
        stream: Passing::new(relay.app, relay.call, false),
        said: tools.checks_output().then(|| OutputText::new(protocol)),
        held: tools.blocks_output().then(Vec::new),
        held_bytes: 0,
        is_framed: true,
    };
    let mut answer = Some(answer);
    let end = match begin(relay, head).await {
        Ok(()) => course.run(relay, &mut answer).await,
        Err(end) => end,
    };
    let inside_event = !course.stream.is_between_events();
    finish(relay, answer, end, inside_event).await
}

impl Course<'_> {
    async fn run(&mut self, relay: &mut Relay<'_>, current: &mut Option<Box<Answer>>) -> End {
        for round in 1.. {
            let Some(answer) = current.as_mut() else { break };
            let mut out = Vec::new();
            if let Err(end) = self.read(relay, answer, &mut out).await {
                return end;
            }
            let ended = self.looped.round_end(&mut out);
            observe(relay.call, answer, &self.stream);
            if let Err(end) = self.show(relay.s, &mut out).await {
                return end;
            }
            match ended.ending {
                tools::Ending::Complete => {}
                tools::Ending::Failed if self.held.is_none() => return End::Reported,
                tools::Ending::Failed => return End::Broken("provider_error_event"),
                tools::Ending::Broken => return End::Broken("connection_broken"),
            }
            let calls = match &ended.step {
                Next::Done => break,
                Next::Run(calls) | Next::Mixed(calls) => calls,
            };
            let goes_on = matches!(ended.step, Next::Run(_));
            if goes_on && let Err(refused) = self.tools.may_go_on(round) {
                return refusal(refused);
            }
            if let Some(answer) = current.take_if(|_| goes_on) {
                relay.give_back(answer, self.is_framed).await;
            }
            let results = match self.run_calls(relay, calls).await {
                Ok(results) => results,
                Err(end) => return end,
            };
            self.looped.results(&results, &mut out);
            if let Err(end) = self.show(relay.s, &mut out).await {
                return end;
            }
            if !goes_on {
                break;
            }
            let turn = &ended.turn;
            if let Err(refused) = next_round(relay.app, relay.call, turn, &results).await {
                return refusal(refused);
            }
            match self.ask(relay).await {
                Ok(answer) => *current = Some(answer),
                Err(end) => return end,
            }
        }
        self.end(relay).await
    }

    /// The next round's answer.
    async fn ask(&mut self, relay: &mut Relay<'_>) -> Result<Box<Answer>, End> {
        relay.watch.alive = self.stream.alive(relay.app);
        let answer = relay.ask().await.map_err(|stop| match stop {
            Stop::Broken(error) => End::CallerGone(error),
            // What a provider says is not for a stream that has begun.
            Stop::Refused(refused) if refused.code.is_providers() => End::Broken("provider_failed"),
            Stop::Refused(refused) => refusal(*refused),
        })?;
        if !answer.is_stream {
            relay.give_back(answer, false).await;
            return Err(End::Broken("malformed_response"));
        }
        self.stream.meter = Passing::new(relay.app, relay.call, false).meter;
        Ok(answer)
    }

    /// Reads one round's stream to its end.
    async fn read(
        &mut self,
        relay: &mut Relay<'_>,
        answer: &mut Answer,
        out: &mut Vec<Bytes>,
    ) -> Result<(), End> {
        let (mut broken, mut is_over) = (None, false);
        self.is_framed = true;
        let mut metered = Vec::with_capacity(4);
        for piece in std::mem::take(&mut answer.first) {
            self.stream.meter.feed(piece, &mut metered);
        }
        loop {
            self.follow(&mut metered, out);
            observe(relay.call, answer, &self.stream);
            if let Err(refused) = relay.call.open.cover_output().await {
                let _ = self.show(relay.s, out).await;
                return Err(End::Ours("budget_exceeded", refused));
            }
            self.show(relay.s, out).await?;
            if self.stream.meter.has_hidden_error() || answer.incoming.failure().is_some() {
                broken = Some("provider_error_event");
            }
            // Behind a round's last event there is nothing to miss.
            if broken.is_some() && self.stream.is_whole() {
                self.is_framed = false;
                break;
            }
            if let Some(reason) = broken {
                let_go(relay.s, &mut self.stream, out).await;
                return Err(End::Broken(reason));
            }
            if is_over {
                break;
            }
            let next = if answer.up.response_done() {
                None
            } else {
                match wait(relay, answer, &self.stream).await {
                    Err(End::Broken(_)) if self.stream.is_whole() => {
                        self.is_framed = false;
                        break;
                    }
                    next => next?,
                }
            };
            match next {
                Some(piece) => {
                    let meter = &mut self.stream.meter;
                    broken = take_in(answer, piece, |plain| meter.feed(plain, &mut metered));
                }
                None if answer.incoming.translates() => {
                    is_over = true;
                    self.stream.meter.feed(answer.incoming.close(), &mut metered);
                }
                None => break,
            }
        }
        self.stream.meter.finish(&mut metered);
        self.follow(&mut metered, out);
        Ok(())
    }

    fn follow(&mut self, metered: &mut Vec<Bytes>, out: &mut Vec<Bytes>) {
        for piece in metered.drain(..) {
            self.looped.feed(piece, out);
        }
    }

    /// Writes what the caller may see, or keeps it until it has been checked.
    async fn show(&mut self, s: &mut Session, out: &mut Vec<Bytes>) -> Result<(), End> {
        if let Some(said) = &mut self.said {
            out.iter().for_each(|piece| said.feed(piece));
        }
        let Some(held) = &mut self.held else {
            self.stream.pass(out);
            return write(s, out).await.map_err(|error| End::CallerGone(error.into_down()));
        };
        self.held_bytes += out.iter().map(Bytes::len).sum::<usize>();
        held.append(out);
        if self.held_bytes > MAX_HELD_BYTES {
            let message = "The answer is too long to be checked by a guardrail that blocks";
            return Err(refusal(Rejection::new(Code::GuardrailUnavailable, message)));
        }
        Ok(())
    }

    /// Runs the calls that are the gateway's.
    async fn run_calls(
        &mut self,
        relay: &mut Relay<'_>,
        calls: &[ToolCall],
    ) -> Result<Vec<ToolResult>, End> {
        relay.watch.alive = self.stream.alive(relay.app);
        relay.watch.own(relay.s, self.tools.run(relay.app, calls)).await.map_err(ours)
    }

    /// The last round is over: checked, recorded, and its end is written.
    async fn end(&mut self, relay: &mut Relay<'_>) -> End {
        let mut out = Vec::new();
        if let Some(said) = self.said.take() {
            let Relay { app, s, ctx, watch, .. } = relay;
            watch.alive = self.stream.alive(app);
            let text = said.finish();
            let checked = watch.own(s, self.tools.check_text(app, ctx, &text)).await;
            match checked {
                Ok(Ok(())) => {}
                Ok(Err(refused)) if self.held.is_some() => return refusal(refused),
                // It has been seen already.
                Ok(Err(_)) => {}
                Err(failed) => return ours(failed),
            }
        }
        out.append(&mut self.held.take().unwrap_or_default());
        relay.call.open.end(&Ending::Complete { streamed: true });
        self.looped.finish(&mut out);
        self.stream.pass(&mut out);
        if let Some(name) = &mut self.stream.name {
            name.finish(&mut out);
            self.stream.hold_back(&mut out);
        }
        if let Err(error) = write(relay.s, &mut out).await {
            return End::CallerGone(error.into_down());
        }
        match settle(relay, &mut self.stream).await {
            Ok(()) if self.is_framed => End::Complete,
            Ok(()) => End::Unframed,
            Err(end) => end,
        }
    }
}

/// The loop ends here by the gateway's will: what was answered is paid.
fn refusal(refused: Rejection) -> End {
    End::Ours(refused.code.as_str(), refused)
}
